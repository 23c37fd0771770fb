/** A kernel's command line with the VM's console among its own, where it names none; the last one is /dev/console. */
export function withConsole(line: string, console: 'serial' | 'hvc0'): string {
  const name = console === 'serial' ? 'ttyS0' : console;
  const words = line.split(' ');
  return words.some((word) => word === `console=${name}` || word.startsWith(`console=${name},`))
    ? line
    : `${line} console=${name}`.trimStart();
}
