/** A word in quotes, for a shell: it takes all of it as it is. */
export function shellQuote(word: string): string {
  return `'${word.replaceAll("'", "'\\''")}'`;
}
