import { build } from 'esbuild';
import { createHash } from 'node:crypto';
import { join } from 'node:path';

const ROOT = join(import.meta.dirname, '../..');

/**
 * Makes one JavaScript file out of TypeScript that imports from the tree (by paths from its root, `./src/...`), for
 * processes and workers that start without a loader. The file lies in the tree, for the addon is found from there.
 */
export async function bundleScript(contents: string): Promise<string> {
  const name = createHash('sha256').update(contents).digest('hex').slice(0, 16);
  const outfile = join(ROOT, '.cache/test', `${name}.mjs`);
  await build({
    stdin: { contents, resolveDir: ROOT, loader: 'ts' },
    outfile,
    bundle: true,
    platform: 'node',
    target: 'node20',
    format: 'esm',
    logLevel: 'error',
  });
  return outfile;
}
