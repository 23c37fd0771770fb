import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { packageRoot } from '../../images/debian/cache.ts';

/** The programs that README shows. */
export function readmePrograms(): string[] {
  const readme = readFileSync(join(packageRoot(), 'README.md'), 'utf8');
  return [...readme.matchAll(/^```ts\n(.*?)^```/gms)].map((match) => match[1]!);
}
