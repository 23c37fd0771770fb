/** The environment block of GRUB: what it keeps from one start to the next. */
const MARK = '# GRUB Environment Block\n';

export function parseGrubEnv(text: string): Map<string, string> {
  const values = new Map<string, string>();
  if (!text.startsWith(MARK)) return values;
  // A backslash is before itself and before an end of line within a value.
  for (const [, name, value] of text.slice(MARK.length).matchAll(/^([^#=\n]+)=((?:\\[^]|[^\\\n])*)$/gm))
    values.set(name!, value!.replaceAll(/\\([^])/g, '$1'));
  return values;
}
