// Assembles firmware/*.S into flat binaries in dist/firmware: `node firmware/build.mjs`.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = dirname(fileURLToPath(import.meta.url));
const out = join(dirname(here), 'dist/firmware');
const scratch = mkdtempSync(join(tmpdir(), 'tsvm-firmware-'));
mkdirSync(out, { recursive: true });
try {
  for (const source of readdirSync(here).filter((name) => name.endsWith('.S'))) {
    const name = source.slice(0, -2);
    const object = join(scratch, `${name}.o`);
    execFileSync('cc', ['-c', '-Wa,--fatal-warnings', '-o', object, join(here, source)], {
      stdio: 'inherit',
    });
    const flags = ['-nostdlib', '--oformat=binary', '-T', join(here, 'flat.ld')];
    execFileSync('ld', [...flags, '-o', join(out, `${name}.bin`), object], { stdio: 'inherit' });
  }
} finally {
  rmSync(scratch, { recursive: true, force: true });
}
