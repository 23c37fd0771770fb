/** Copies into a VM and out of it, whose guest is this host: its shell and tar are real, and so is what it may do wrong. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { execa } from 'execa';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { CopyError, Vm } from '../../src/index.ts';
import { HostGuest } from '../support/host-guest.ts';
import { TSVM, VmHome } from '../support/vm-home.ts';

let home: VmHome;
let guest: HostGuest;
let vm: Vm;
/** folders of the two sides, new for each test */
let here: string;
let there: string;
let count = 0;

beforeAll(async () => {
  home = new VmHome();
  await home.create('web');
  guest = await HostGuest.start(home, 'web');
  vm = Vm.get('web', { home: home.env.TSVM_HOME });
}, 120_000);
beforeEach(async () => {
  here = join(home.folder, `here-${++count}`);
  mkdirSync(here);
  there = join(guest.folder, `there-${count}`);
  await vm.exec('mkdir', [there], { check: true });
});
afterAll(async () => {
  await guest.close();
  home.remove();
}, 60_000);

const inGuest = async (line: string): Promise<string> =>
  (await vm.exec('sh', ['-c', `cd ${there} && ${line}`], { check: true })).stdout;

/** A tree with all that is to be kept. */
function makeTree(root: string): void {
  mkdirSync(join(root, 'sub/deep'), { recursive: true });
  writeFileSync(join(root, 'script'), '#!/bin/sh\n', { mode: 0o755 });
  writeFileSync(join(root, 'sub/.hidden file'), 'secret', { mode: 0o600 });
  writeFileSync(join(root, 'sub/deep', 'n'.repeat(200)), 'a long name');
  writeFileSync(join(root, 'sub/größe\n-x'), 'an odd name');
  writeFileSync(join(root, 'empty'), '');
  writeFileSync(join(root, 'data'), Buffer.alloc(300_001, 'x'));
  symlinkSync('sub/deep', join(root, 'link'));
  symlinkSync(`/nowhere/${'y'.repeat(150)}`, join(root, 'broken'));
  utimesSync(join(root, 'data'), 1_000_000_000, 1_000_000_000);
  utimesSync(join(root, 'sub'), 1_100_000_000, 1_100_000_000);
  chmodSync(join(root, 'sub/deep'), 0o750);
}

/** All of a tree that a copy has to have. */
function describeTree(root: string, name = ''): string[] {
  const path = join(root, name);
  const stats = lstatSync(path);
  const mode = (stats.mode & 0o777).toString(8);
  if (stats.isSymbolicLink()) return [`${name} -> ${readlinkSync(path)}`];
  const head = `${name} ${mode} ${Math.floor(stats.mtimeMs / 1000)}`;
  if (!stats.isDirectory()) return [`${head} ${readFileSync(path).toString('base64')}`];
  return [
    head,
    ...readdirSync(path)
      .sort()
      .flatMap((each) => describeTree(root, join(name, each))),
  ];
}

describe('by the library', () => {
  test('a tree goes in and out with modes, times and links', async () => {
    makeTree(join(here, 'tree'));
    const result = await vm.copyIn(join(here, 'tree'), there);
    expect(result).toEqual({ files: 8, bytes: 300_039, skipped: [] });
    expect(describeTree(join(there, 'tree'))).toEqual(describeTree(join(here, 'tree')));
    expect(await vm.copyOut(join(there, 'tree'), join(here, 'back'))).toEqual(result);
    expect(describeTree(join(here, 'back'))).toEqual(describeTree(join(here, 'tree')));
    expect([readdirSync(here).sort(), readdirSync(there)]).toEqual([['back', 'tree'], ['tree']]);
  });

  test('what is in a folder goes without the folder', async () => {
    makeTree(join(here, 'tree'));
    await vm.copyIn(`${join(here, 'tree')}/.`, there);
    expect(readFileSync(join(there, 'script'), 'utf8')).toBe('#!/bin/sh\n');
    mkdirSync(join(here, 'back'));
    await vm.copyOut(`${there}/.`, join(here, 'back'));
    const [, ...copied] = describeTree(join(here, 'back'));
    const [, ...original] = describeTree(join(here, 'tree'));
    expect(copied).toEqual(original);
  });

  test('folders become one with those that are there, and files take the place of files', async () => {
    for (const [side, send] of [
      [there, (): Promise<unknown> => vm.copyIn(join(here, 'new'), there)],
      [here, (): Promise<unknown> => vm.copyOut(join(there, 'new'), here)],
    ] as const) {
      const from = side === there ? here : there;
      const write = (root: string, line: string) =>
        vm.exec('sh', ['-c', line], { check: true }).then(() => root);
      if (side === there) {
        makeTree(join(here, 'new'));
        await write(
          there,
          `cd ${there} && mkdir -p new/sub && echo old > new/script && echo kept > new/sub/kept && chmod 700 new`,
        );
      } else {
        rmSync(join(here, 'new'), { recursive: true });
        mkdirSync(join(here, 'new/sub'), { recursive: true });
        writeFileSync(join(here, 'new/script'), 'old');
        writeFileSync(join(here, 'new/sub/kept'), 'kept\n');
      }
      await send();
      expect(readFileSync(join(side, 'new/sub/kept'), 'utf8')).toBe('kept\n');
      expect(readFileSync(join(side, 'new/script'), 'utf8')).toBe('#!/bin/sh\n');
      expect(readlinkSync(join(side, 'new/link'))).toBe('sub/deep');
      expect(readdirSync(from)).toContain('new');
    }
  });

  test('what does not fit is told, and nothing is changed', async () => {
    makeTree(join(here, 'tree'));
    await inGuest('mkdir -p tree/data && echo old > tree/empty');
    await expect(vm.copyIn(join(here, 'tree'), there)).rejects.toThrow(
      /^cannot copy: web:.*tree\/\.?\/?data is a folder, and what comes is none$/,
    );
    expect(await inGuest('cat tree/empty; ls -A . tree')).toBe('old\n.:\ntree\n\ntree:\ndata\nempty\n');
    await expect(vm.copyOut(join(there, 'tree'), here)).rejects.toThrow(
      /here-\d+\/tree\/data: this is no folder, and what comes is one$/,
    );
    expect(describeTree(here).length).toBe(describeTree(join(here, 'tree')).length + 1);
  });

  test('a link is copied as one, or what it leads to', async () => {
    writeFileSync(join(here, 'file'), 'content');
    symlinkSync('file', join(here, 'link'));
    await vm.copyIn(join(here, 'link'), there);
    expect(readlinkSync(join(there, 'link'))).toBe('file');
    await vm.copyIn(join(here, 'link'), join(there, 'followed'), { followLink: true });
    expect(lstatSync(join(there, 'followed')).isFile()).toBe(true);
    await inGuest('mv followed file');
    await vm.copyOut(join(there, 'link'), join(here, 'out'), { followLink: true });
    expect([lstatSync(join(here, 'out')).isFile(), readFileSync(join(here, 'out'), 'utf8')]).toEqual([
      true,
      'content',
    ]);
  });

  test('a link in the place of a file is replaced, not followed', async () => {
    writeFileSync(join(here, 'file'), 'new');
    writeFileSync(join(here, 'other'), 'other');
    symlinkSync('other', join(here, 'link'));
    await vm.copyIn(join(here, 'file'), there);
    await vm.copyOut(join(there, 'file'), join(here, 'link'));
    expect([lstatSync(join(here, 'link')).isFile(), readFileSync(join(here, 'other'), 'utf8')]).toEqual([
      true,
      'other',
    ]);
  });

  test('hard links of the guest arrive as files with one content', async () => {
    await inGuest('mkdir t && echo same > t/a && ln t/a t/b');
    await vm.copyOut(join(there, 't'), here);
    expect(readFileSync(join(here, 't/b'), 'utf8')).toBe('same\n');
    expect(statSync(join(here, 't/a')).ino).toBe(statSync(join(here, 't/b')).ino);
  });

  test('set-id bits of the guest are dropped, pipes passed over and told', async () => {
    await inGuest('mkdir t && echo x > t/su && chmod 4755 t/su && mkfifo t/pipe');
    const { skipped } = await vm.copyOut(join(there, 't'), here);
    expect(skipped).toEqual(['./t/pipe']);
    expect(statSync(join(here, 't/su')).mode & 0o7777).toBe(0o755);
    await execa('mkfifo', [join(here, 't/pipe')]);
    expect((await vm.copyIn(join(here, 't'), join(there, 'in'))).skipped).toEqual([join(here, 't/pipe')]);
  });

  test('folders that may not be written to arrive so', async () => {
    await inGuest('mkdir -p t/inner && echo x > t/inner/file && chmod 555 t/inner && chmod 500 t');
    await vm.copyOut(join(there, 't'), join(here, 'out'));
    expect(['out', 'out/inner'].map((name) => statSync(join(here, name)).mode & 0o777)).toEqual([
      0o500, 0o555,
    ]);
    chmodSync(join(here, 'out'), 0o700);
    chmodSync(join(here, 'out/inner'), 0o700);
    await inGuest('chmod -R u+w t');
  });

  test('streams become files, and files streams', async () => {
    const bytes = randomBytes(1_000_003);
    await vm.copyIn(Readable.from([bytes.subarray(0, 10), bytes.subarray(10)]), join(there, 'file'));
    expect(readFileSync(join(there, 'file')).equals(bytes)).toBe(true);
    await inGuest('chmod 640 file');
    await vm.copyIn(Readable.from(['short']), join(there, 'file'));
    expect(await inGuest('stat -c %a file; cat file')).toBe('640\nshort');
  });

  test('a large file goes both ways in little memory, with its progress', async () => {
    const size = 200_000_000;
    await execa('truncate', ['-s', String(size), join(here, 'large')]);
    const before = process.memoryUsage().arrayBuffers;
    let most = 0;
    let last = { bytes: 0, total: 0 as number | undefined };
    const onProgress = (progress: { bytes: number; total: number | undefined }): void => {
      expect(progress.bytes).toBeGreaterThanOrEqual(last.bytes);
      last = progress;
      most = Math.max(most, process.memoryUsage().arrayBuffers - before);
    };
    await vm.copyIn(join(here, 'large'), there, { onProgress });
    expect(last).toEqual({ bytes: size, total: size });
    last = { bytes: 0, total: undefined };
    await vm.copyOut(join(there, 'large'), join(here, 'back'), { onProgress });
    expect([last.bytes, statSync(join(here, 'back')).size]).toEqual([size, size]);
    expect(most).toBeLessThan(64 * 2 ** 20);
  }, 120_000);

  test('a copy that is ended leaves nothing, on both sides', async () => {
    writeFileSync(join(here, 'target'), 'old');
    await execa('truncate', ['-s', '2G', join(here, 'large')]);
    await inGuest('truncate -s 2G large');
    for (const begin of [
      (options: object) => vm.copyIn(join(here, 'large'), join(there, 'in'), options),
      (options: object) => vm.copyOut(join(there, 'large'), join(here, 'target'), options),
      (options: object) => vm.copyIn(Readable.from(endless()), join(there, 'stream'), options),
    ]) {
      const abort = new AbortController();
      const onProgress = ({ bytes }: { bytes: number }): void => {
        if (bytes > 1_000_000) abort.abort(new Error('enough'));
      };
      await expect(begin({ signal: abort.signal, onProgress })).rejects.toThrow('enough');
    }
    await expect.poll(() => readdirSync(there), { timeout: 10_000 }).toEqual(['large']);
    expect([readdirSync(here).sort(), readFileSync(join(here, 'target'), 'utf8')]).toEqual([
      ['large', 'target'],
      'old',
    ]);
  }, 60_000);

  test.each([
    ['a source that is not there', () => vm.copyIn(join(here, 'no'), there), /here-\d+\/no: no such file/],
    ['the guest lacks it', () => vm.copyOut(join(there, 'no'), here), /web:.*\/no: there is no such file/],
    [
      'no folder in the guest',
      () => vm.copyIn(here, join(there, 'no/')),
      /web:.*no\/: there is no such folder/,
    ],
    ['none above', () => vm.copyIn(here, join(there, 'no/x')), /there is no folder that it would be in/],
    ['no folder here', () => vm.copyOut(there, join(here, 'no/')), /here-\d+\/no\/: there is no such folder/],
    ['none above it here', () => vm.copyOut(there, join(here, 'no/x')), /no\/x: no such file or folder/],
    ['not allowed in the guest', () => vm.copyIn(here, '/proc'), /web:\/proc: mktemp: /],
    ['a folder for a stream', () => vm.copyIn(Readable.from(['x']), there), /this is a folder/],
    ['an odd owner', () => vm.copyIn(here, there, { owner: '-R x' }), /no owner/],
  ])('it says which path and why: %s', async (_, copy, message) => {
    await expect(copy()).rejects.toThrow(CopyError);
    await expect(copy()).rejects.toThrow(message);
    expect([readdirSync(here), readdirSync(there)]).toEqual([[], []]);
  });
});

async function* endless(): AsyncGenerator<Buffer> {
  for (;;) {
    await new Promise((resolve) => setImmediate(resolve));
    yield Buffer.alloc(65_536);
  }
}

describe('by the command line', () => {
  test('files, folders and standard streams go both ways', async () => {
    makeTree(join(here, 'tree'));
    writeFileSync(join(here, 'one'), '1');
    expect(await home.tsvm('cp', join(here, 'tree'), join(here, 'one'), `web:${there}/`)).toEqual({
      code: 0,
      stdout: '',
      stderr: '',
    });
    const result = JSON.parse(
      await home.ok('cp', '-r', '--json', `web:${there}/tree`, join(here, 'back')),
    ) as unknown;
    expect(result).toEqual([{ source: `web:${there}/tree`, files: 8, bytes: 300_039, skipped: [] }]);
    expect(describeTree(join(here, 'back'))).toEqual(describeTree(join(here, 'tree')));
    const run = home.begin(['cp', '-', `web:${there}/typed`]);
    run.stdin.end('from a pipe');
    expect((await run).exitCode).toBe(0);
    expect(await home.ok('cp', `web:${there}/typed`, '-')).toBe('from a pipe');
  });

  test('what makes no sense is told', async () => {
    for (const [args, code, message] of [
      [['x'], 2, 'a source and a target are needed'],
      [['x', 'y'], 2, 'neither side is a VM'],
      [['web:/x', 'web:/y'], 2, 'by way of this host'],
      [['web:', '.'], 2, 'no path after its colon'],
      [['x', 'y', 'web:/z'], 2, 'several sources go into a folder'],
      [['no-such-vm:/x', '.'], 1, "there is no VM 'no-such-vm'"],
      [[join(here, 'gone'), 'web:/tmp'], 1, `cannot copy: ${join(here, 'gone')}: no such file or folder`],
    ] as const) {
      const ran = await home.tsvm('cp', ...args);
      expect([ran.code, ran.stderr]).toEqual([code, expect.stringContaining(message)]);
    }
  });

  test('there is a bar on a terminal, and Ctrl-C leaves nothing', async () => {
    await inGuest('truncate -s 4G large');
    const line = `"${process.execPath}" "${TSVM}" cp web:${there}/large ${here}/`;
    const run = execa('script', ['-qec', line, '/dev/null'], { env: home.env, reject: false, stdin: 'pipe' });
    let said = '';
    run.stdout.on('data', (data: Buffer) => {
      said += data.toString();
      if (/\[#+\.*\] \d+% [\d.]+ .iB of 4 GiB/.test(said) && run.stdin.writable) run.stdin.end('\x03');
    });
    expect((await run).exitCode).toBe(130);
    expect(said).toMatch(/copying web:.*large \[/);
    expect(readdirSync(here)).toEqual([]);
    expect(existsSync(join(there, 'large'))).toBe(true);
  }, 60_000);
});
