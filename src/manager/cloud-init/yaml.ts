export type Yaml =
  string | number | boolean | null | readonly Yaml[] | { readonly [key: string]: Yaml | undefined };

/**
 * YAML of values: JSON, which YAML 1.2 has within it, with all that is not printable ASCII as escapes. No text can end
 * up as anything else than the text that it is.
 */
export function toYaml(value: Yaml): string {
  return `${JSON.stringify(value, undefined, 2).replaceAll(/[^\n -~]/gu, escape)}\n`;
}

/** Escapes of YAML: JSON's pairs of surrogates would be two characters. */
function escape(character: string): string {
  const hex = (character.codePointAt(0) ?? 0).toString(16);
  return hex.length > 4 ? `\\U${hex.padStart(8, '0')}` : `\\u${hex.padStart(4, '0')}`;
}
