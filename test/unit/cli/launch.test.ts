/** The command's program is compiled when it is built: that code is used, and does no harm where it cannot be. */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { execa } from 'execa';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { packageRoot } from '../../../images/debian/cache.ts';
import { programScript } from '../../../src/cli/launch/script.ts';

const dist = join(packageRoot(), 'dist');
const codeFiles = readdirSync(dist).filter((name) => name.endsWith('.code'));

test('there is code of all of the program, and of what every command runs', () => {
  expect(codeFiles.map((name) => name.replace(/^program-[0-9a-f]{16}-/, '')).sort()).toEqual([
    'all.code',
    'common.code',
  ]);
});

describe.each(codeFiles)('%s', (name) => {
  let folder: string;

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'tsvm-launch-'));
    writeFileSync(join(folder, 'package.json'), readFileSync(join(packageRoot(), 'package.json')));
    cpSync(dist, join(folder, 'dist'), { recursive: true, filter: (path) => !path.includes('types') });
  });
  afterEach(() => rmSync(folder, { recursive: true }));

  /** What the command that uses this code says. */
  async function says(): Promise<string> {
    const args = name.includes('all') ? ['run', '--help'] : ['list'];
    const tsvm = join(folder, 'dist/tsvm.cjs');
    const { stdout } = await execa(process.execPath, [tsvm, ...args], { env: { TSVM_HOME: folder } });
    return stdout;
  }

  test('is taken by the Node that it was made by, for the program that it was made of', () => {
    expect(programScript(dist, readFileSync(join(dist, name))).cachedDataRejected).toBe(false);
  });

  test.each([
    ['is not there', () => rmSync(join(folder, 'dist', name))],
    ['is empty', () => writeFileSync(join(folder, 'dist', name), '')],
    ['is cut', (code: Buffer) => writeFileSync(join(folder, 'dist', name), code.subarray(0, 100_000))],
    // The version of V8 is in the first words.
    [
      'is of another Node',
      (code: Buffer) => writeFileSync(join(folder, 'dist', name), code.fill(0x5a, 4, 8)),
    ],
  ])('where it %s, the command runs', async (_, harm) => {
    const before = await says();
    harm(readFileSync(join(folder, 'dist', name)));
    expect(await says()).toBe(before);
  });
});
