import { existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

let found: string | undefined;

/** The folder of tsvm's own package.json: from a bundle in dist/ as well as from the sources. */
export function packageRoot(): string {
  if (found !== undefined) return found;
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    const manifest = join(folder, 'package.json');
    if (existsSync(manifest) && /"name":\s*"tsvm"/.test(readFileSync(manifest, 'utf8')))
      return (found = folder);
    if (folder === dirname(folder)) throw new Error(`tsvm's package.json is in no folder above ${start}`);
  }
}
