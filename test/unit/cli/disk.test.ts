/** `tsvm disk` as a user has it: a process, files, and what QEMU's programs say of them. */
import { existsSync, readdirSync, readFileSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { describe, expect, it } from 'vitest';

import { noQemuTools, qemuCheck, qemuImg, qemuIo } from '../../support/storage/qemu-img.ts';
import { bundle } from './support/bundle.ts';
import { diskFolder } from './support/disk-folder.ts';
import { haveScript, PseudoTerminal } from './support/pseudo-terminal.ts';
import { Background } from './support/run-tsvm.ts';

const TSVM = bundle('../../../../src/cli/main.ts');
const MIB = 2 ** 20;

const folder = diskFolder();
const { file, tsvm, made, refused } = folder;

/** 6 MiB with data at both ends, a hole between, and an end that is no whole cluster. */
function sampleRaw(name = 'a.raw'): Buffer {
  const bytes = Buffer.alloc(6 * MIB + 512);
  for (let i = 0; i < 300_000; i++) bytes[i] = (i * i) >>> 7;
  bytes.fill(7, 6 * MIB - 1000);
  writeFileSync(file(name), bytes.subarray(0, 300_000));
  truncateSync(file(name), bytes.length);
  writeFileSync(file(name), bytes);
  return bytes;
}

type Info = { virtualSize: number; allocatedSize: number; format: string; qcow2?: Record<string, unknown> };
const info = (name: string): Info => JSON.parse(made('info', '--json', name)) as Info;

describe('tsvm disk', () => {
  it.each(['create', 'info', 'resize', 'check', 'convert', 'rebase', 'commit', 'map'])(
    'has help with examples for %s',
    (verb) => {
      const help = made(verb, '--help');
      expect(help).toContain(`Usage: tsvm disk ${verb}`);
      expect(help).toMatch(/Examples:\n {2}tsvm disk/);
      expect(help).toContain('--json');
    },
  );

  it('answers wrong usage with the help of the very command', () => {
    expect(refused(2, 'create')).toBe(
      "tsvm: missing required argument 'file'\nhint: see 'tsvm disk create --help'\n",
    );
    expect(refused(2, 'crate', 'x')).toBe("tsvm: unknown command 'crate'\nhint: did you mean create?\n");
  });
});

describe('tsvm disk create', () => {
  it('makes a qcow2 image unless told otherwise', () => {
    expect(made('create', 'a.qcow2', '1G')).toBe('a.qcow2: qcow2, 1 GiB\n');
    expect(info('a.qcow2')).toMatchObject({ format: 'qcow2', virtualSize: 2 ** 30 });
  });

  it.each<[string[], Record<string, unknown>]>([
    [['--cluster-size', '512B'], { 'cluster-size': 512 }],
    [['--cluster-size', '2M'], { 'cluster-size': 2 * MIB }],
    [['--refcount-bits', '1'], { data: { 'refcount-bits': 1 } }],
    [['--refcount-bits', '64'], { data: { 'refcount-bits': 64 } }],
    [['--extended-l2'], { data: { 'extended-l2': true } }],
    [['--lazy-refcounts'], { data: { 'lazy-refcounts': true } }],
    [['--compat', '0.10'], { data: { compat: '0.10' } }],
    [['--compression-type', 'zstd'], { data: { 'compression-type': 'zstd' } }],
    [['--preallocation', 'metadata'], { 'virtual-size': 8 * MIB }],
  ])('makes what qemu-img sees: %s', (options, expected) => {
    if (noQemuTools !== undefined) return;
    made('create', ...options, 'a.qcow2', '8M');
    const { data, ...top } = expected;
    const seen = JSON.parse(qemuImg('info', '--output=json', file('a.qcow2'))) as Record<string, unknown>;
    expect(seen).toMatchObject({ 'virtual-size': 8 * MIB, ...top });
    if (data !== undefined) expect(seen['format-specific']).toMatchObject({ data });
    expect(qemuCheck(file('a.qcow2'))).toMatchObject({ 'check-errors': 0 });
    expect(qemuCheck(file('a.qcow2'))).not.toHaveProperty('leaks');
  });

  it.each(['falloc', 'full'])('sets space aside: %s', (mode) => {
    for (const format of ['raw', 'qcow2']) {
      made('create', '-f', format, '--preallocation', mode, `a.${format}`, '8M');
      expect(info(`a.${format}`).allocatedSize).toBeGreaterThanOrEqual(8 * MIB);
    }
  });

  it('sets nothing aside otherwise', () => {
    made('create', '--cluster-size', '2M', 'a.qcow2', '1T');
    expect(info('a.qcow2').allocatedSize).toBeLessThan(MIB);
    made('create', '-f', 'raw', 'a.raw', '1T');
    expect(info('a.raw')).toMatchObject({ virtualSize: 2 ** 40, allocatedSize: 0 });
  });

  it('makes an overlay as large as its backing file, by a name from its own folder', () => {
    made('create', 'base.qcow2', '1G');
    made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2');
    expect(info('a.qcow2')).toMatchObject({
      virtualSize: 2 ** 30,
      qcow2: { backingFile: 'base.qcow2', backingFormat: 'qcow2' },
    });
    const chain = JSON.parse(made('info', '--chain', '--json', 'a.qcow2')) as { path: string }[];
    expect(chain.map(({ path }) => path)).toEqual(['a.qcow2', 'base.qcow2']);
  });

  it('leaves a file that is there as it is, unless it may be replaced', () => {
    writeFileSync(file('a.qcow2'), 'precious', { mode: 0o600 });
    expect(refused(1, 'create', 'a.qcow2', '1G')).toMatch(
      /^tsvm: a.qcow2: there is such a file already\nhint: .*--force/,
    );
    expect(readFileSync(file('a.qcow2'), 'utf8')).toBe('precious');
    made('create', '--force', 'a.qcow2', '1G');
    expect(info('a.qcow2').format).toBe('qcow2');
    // Who could not read the old one cannot read the new one.
    expect(statSync(file('a.qcow2')).mode & 0o777).toBe(0o600);
  });

  it.each<[string[], number, RegExp]>([
    [['a'], 2, /needs a size\nhint: /],
    [['a', '0'], 2, /less than one page/],
    [['a', '1000B'], 2, /not a multiple of 512/],
    [['--cluster-size', '5M', 'a', '1G'], 1, /a: the cluster size must be a power of two/],
    [['--compat', '0.10', '--extended-l2', 'a', '1G'], 1, /a: extended L2 entries.*need version 3/],
    [['--refcount-bits', '3', 'a', '1G'], 2, /not one of 1, 2, 4/],
    [['-f', 'raw', '--lazy-refcounts', 'a', '1G'], 2, /--lazy-refcounts is for qcow2/],
    [['-f', 'raw', '--preallocation', 'metadata', 'a', '1G'], 2, /metadata is for qcow2/],
    [['-b', 'base', 'a'], 2, /needs its format.*never guessed\nhint: --backing-format/],
    [['-b', 'base', '-F', 'raw', 'a'], 1, /base: there is no such file\nhint: /],
    [['none/a', '1G'], 1, /none\/a: cannot be created: there is no such folder\nhint: .*mkdir/],
  ])('refuses %s', (args, code, why) => {
    expect(refused(code, 'create', ...args)).toMatch(why);
    expect(readdirSync(folder.path)).toEqual([]);
  });

  it('tells the name that was meant where it counts from elsewhere', () => {
    made('create', 'base.qcow2', '1G');
    expect(refused(2, 'create', '-b', 'base.qcow2', '-F', 'qcow2', '/tmp/tsvm-not-made.qcow2')).toMatch(
      /there is no backing file \/tmp\/base.qcow2.*\nhint: did you mean --backing /,
    );
  });
});

describe('tsvm disk info', () => {
  it('shows no control characters of a hostile image', () => {
    made('create', 'base.qcow2', '1G');
    made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2');
    const bytes = readFileSync(file('a.qcow2'));
    bytes.write('\x1b]0;x\x07aaa', bytes.indexOf('base.qcow2'));
    writeFileSync(file('a.qcow2'), bytes);
    expect(made('info', 'a.qcow2')).toContain('backing file: \\x1b]0;x\\x07aaa2 (qcow2)');
    expect(refused(1, 'info', '--chain', 'a.qcow2')).toContain('(chain: a.qcow2 <- \\x1b]0;x\\x07aaa2)');
  });

  it('tells of a file that is not there what to do', () => {
    expect(refused(1, 'info', 'a')).toMatch(/^tsvm: a: there is no such file\nhint: .*tsvm disk create/);
  });
});

describe('the format of an image', () => {
  it.each([['map'], ['resize', '1G'], ['convert', 'b']])('is not guessed: %s', (verb, ...rest) => {
    made('create', 'a', '8M');
    expect(refused(1, verb, 'a', ...rest)).toMatch(
      /^tsvm: a: begins like a qcow2 image, and no format is given\nhint: name the format/,
    );
  });

  it('is raw where that is said, whatever a guest has written there', () => {
    made('create', 'a', '8M');
    made('convert', '-f', 'raw', '-O', 'raw', 'a', 'b');
    expect(Buffer.compare(readFileSync(file('a')), readFileSync(file('b')))).toBe(0);
  });
});

describe('tsvm disk resize', () => {
  it.each(['raw', 'qcow2'])('makes a disk larger and smaller: %s', (format) => {
    made('create', '-f', format, 'a', '64M');
    expect(made('resize', '-f', format, 'a', '+64M')).toBe('a: 128 MiB (134217728 bytes)\n');
    expect(refused(2, 'resize', '-f', format, 'a', '64M')).toMatch(/would lose .*\nhint: .*--shrink/);
    expect(JSON.parse(made('resize', '-f', format, '--json', '--shrink', 'a', '--', '-96M'))).toEqual({
      path: 'a',
      oldSize: 128 * MIB,
      newSize: 32 * MIB,
    });
    expect(info('a').virtualSize).toBe(32 * MIB);
  });
});

describe.skipIf(noQemuTools !== undefined)('tsvm disk convert', () => {
  it.each([
    ['raw', []],
    ['qcow2', []],
    ['qcow2', ['--compress']],
    ['qcow2', ['--compress', '--cluster-size', '2M']],
    ['qcow2', ['--compression-type', 'zstd', '--lazy-refcounts']],
    ['qcow2', ['--cluster-size', '512B', '--refcount-bits', '1']],
    ['qcow2', ['--extended-l2', '--preallocation', 'metadata']],
    ['raw', ['--preallocation', 'falloc']],
  ])('makes what qemu-img finds to be the same: %s %s', (format, options) => {
    sampleRaw();
    made('convert', '-f', 'raw', '-O', format, ...options, 'a.raw', 'b');
    qemuImg('compare', '-f', 'raw', '-F', format, file('a.raw'), file('b'));
    made('convert', '-f', format, '-O', 'raw', 'b', 'c.raw');
    expect(Buffer.compare(readFileSync(file('a.raw')), readFileSync(file('c.raw')))).toBe(0);
    expect(info('c.raw').allocatedSize).toBeLessThan(MIB);
    expect(readdirSync(folder.path).sort()).toEqual(['a.raw', 'b', 'c.raw']);
  });

  it('reads no holes: a terabyte of nothing takes no time', () => {
    made('create', '-f', 'raw', 'a.raw', '256G');
    made('convert', '-f', 'raw', 'a.raw', 'a.qcow2');
    expect(info('a.qcow2').allocatedSize).toBeLessThan(MIB);
  });

  it('says that it compresses by zlib only', () => {
    sampleRaw();
    expect(
      refused(2, 'convert', '-f', 'raw', '--compress', '--compression-type', 'zstd', 'a.raw', 'b'),
    ).toMatch(/writes zlib only/);
  });

  it('leaves nothing where it fails', () => {
    sampleRaw();
    expect(refused(1, 'convert', '-f', 'raw', '--cluster-size', '3M', 'a.raw', 'b')).toMatch(
      /^tsvm: b: the cluster/,
    );
    expect(refused(1, 'convert', '-f', 'qcow2', 'a.raw', 'b')).toMatch(/^tsvm: a.raw: .*qcow2/);
    expect(readdirSync(folder.path)).toEqual(['a.raw']);
  });

  it.each(['SIGKILL', 'SIGTERM', 'SIGINT'] as const)(
    'leaves nothing where it is killed: %s',
    async (signal) => {
      made('create', '-f', 'raw', '--preallocation', 'full', 'a.raw', '256M');
      const child = new Background(
        process.execPath,
        [TSVM, 'disk', 'convert', '-f', 'raw', '--preallocation', 'full', 'a.raw', 'b'],
        folder.path,
      );
      // Killed while it copies: its unnamed output is there and grows.
      for (;;) {
        const grows = readdirSync(`/proc/${child.pid}/fd`).some((fd) => {
          try {
            const stats = statSync(`/proc/${child.pid}/fd/${fd}`);
            return (
              stats.isFile() &&
              (stats.nlink === 0 || existsSync(file(`b.${child.pid}.part`))) &&
              stats.blocks > 10_000
            );
          } catch {
            return false;
          }
        });
        if (grows) break;
        await delay(2);
      }
      child.process.kill(signal);
      await child.ends();
      expect(child.process.exitCode).toBe({ SIGKILL: null, SIGTERM: 143, SIGINT: 130 }[signal]);
      expect(readdirSync(folder.path)).toEqual(['a.raw']);
    },
  );
});

describe.skipIf(noQemuTools !== undefined)('overlays', () => {
  function makeChain(): void {
    made('create', 'base.qcow2', '8M');
    qemuIo(file('base.qcow2'), 'write -P 1 0 4M');
    made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2');
    qemuIo(file('a.qcow2'), 'write -P 2 1M 1M', 'write -z 2M 64k');
  }
  const PATTERN = [
    'read -P 1 0 1M',
    'read -P 2 1M 1M',
    'read -P 0 2M 64k',
    'read -P 1 2112k 64k',
    'read -P 0 4M 4M',
  ];

  it('are committed to their backing file', () => {
    makeChain();
    expect(made('commit', 'a.qcow2')).toBe('a.qcow2: committed to base.qcow2\n');
    for (const name of ['base.qcow2', 'a.qcow2']) {
      qemuIo(file(name), ...PATTERN);
      expect(qemuCheck(file(name))).not.toHaveProperty('leaks');
    }
    // It goes on as an overlay.
    made('map', '-f', 'qcow2', 'a.qcow2');
  });

  it('whose commit is killed read as before, and are committed again', async () => {
    made('create', 'base.qcow2', '256M');
    made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2');
    qemuIo(file('a.qcow2'), 'write -P 2 0 256M');
    const small = statSync(file('base.qcow2')).size;
    const child = new Background(process.execPath, [TSVM, 'disk', 'commit', 'a.qcow2'], folder.path);
    while (statSync(file('base.qcow2')).size < small + 16 * MIB) await delay(2);
    child.process.kill('SIGKILL');
    await child.ends();
    expect(child.process.signalCode).toBe('SIGKILL');
    made('map', '-f', 'qcow2', 'a.qcow2');
    qemuIo(file('a.qcow2'), 'read -P 2 0 256M');
    made('commit', 'a.qcow2');
    qemuIo(file('base.qcow2'), 'read -P 2 0 256M');
    expect(qemuCheck(file('base.qcow2'))).toMatchObject({ 'check-errors': 0 });
  });

  it('that stay behind are refused, with the chain', () => {
    makeChain();
    made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'b.qcow2');
    made('commit', 'a.qcow2');
    expect(refused(1, 'map', '-f', 'qcow2', 'b.qcow2')).toMatch(
      /^tsvm: b.qcow2: the backing file was changed .*\(chain: b.qcow2 <- base.qcow2\)\nhint: restore/,
    );
  });

  it('are put on another backing file, and read the same', () => {
    makeChain();
    made('create', 'other.qcow2', '8M');
    qemuIo(file('other.qcow2'), 'write -P 3 0 8M');
    expect(made('rebase', '-b', 'other.qcow2', '-F', 'qcow2', 'a.qcow2')).toBe(
      'a.qcow2: is on other.qcow2 (qcow2)\n',
    );
    qemuIo(file('a.qcow2'), ...PATTERN);
    expect(info('a.qcow2').qcow2).toMatchObject({ backingFile: 'other.qcow2' });
  });

  it('are put on none, and read the same', () => {
    makeChain();
    made('rebase', '--flatten', 'a.qcow2');
    expect(info('a.qcow2').qcow2).not.toHaveProperty('backingFile');
    qemuIo(file('a.qcow2'), ...PATTERN);
  });

  it('are not put on themselves', () => {
    makeChain();
    made('create', '-b', 'a.qcow2', '-F', 'qcow2', 'b.qcow2');
    expect(refused(1, 'rebase', '-b', 'b.qcow2', '-F', 'qcow2', 'a.qcow2')).toMatch(
      /cannot be put on itself \(chain: a.qcow2 <- b.qcow2 <- a.qcow2 <- base.qcow2\)/,
    );
  });

  it('whose backing file was copied are told the new one by --unsafe', () => {
    makeChain();
    writeFileSync(file('moved.qcow2'), readFileSync(file('base.qcow2')));
    made('rebase', '--unsafe', '-b', 'moved.qcow2', '-F', 'qcow2', 'a.qcow2');
    qemuIo(file('a.qcow2'), ...PATTERN);
  });

  it('have a map that is that of qemu-img', () => {
    makeChain();
    type Theirs = {
      start: number;
      length: number;
      depth: number;
      zero: boolean;
      data: boolean;
      offset?: number;
    };
    type Ours = { start: number; length: number; depth: number; kind: string; offset?: number };
    const theirs = JSON.parse(qemuImg('map', '--output=json', file('a.qcow2'))) as Theirs[];
    const ours = JSON.parse(made('map', '-f', 'qcow2', '--json', 'a.qcow2')) as Ours[];
    const written = (extents: { start: number; length: number; depth: number; offset?: number }[]) =>
      extents.map(({ start, length, depth, offset }) => [start, length, depth, offset]);
    expect(written(ours.filter(({ kind }) => kind === 'data'))).toEqual(
      written(theirs.filter(({ data }) => data)),
    );
    expect(ours.reduce((sum, { length }) => sum + length, 0)).toBe(8 * MIB);
    expect(made('map', '-f', 'qcow2', 'a.qcow2').split('\n').length).toBe(ours.length + 2);
  });
});

describe.skipIf(noQemuTools !== undefined)('tsvm disk check', () => {
  /** An image with a cluster more, and with refcounts for that one and for one in use. */
  function damaged(unused: number, used: number): void {
    made('create', 'a.qcow2', '8M');
    qemuIo(file('a.qcow2'), 'write -P 1 0 1M');
    const bytes = readFileSync(file('a.qcow2'));
    const block = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(48))));
    const l2 = Number(bytes.readBigUInt64BE(Number(bytes.readBigUInt64BE(40))) & 0xff_ffff_ffff_fe00n);
    const data = Number(bytes.readBigUInt64BE(l2) & 0xff_ffff_ffff_fe00n);
    bytes.writeUInt16BE(unused, block + 2 * (bytes.length / 65536));
    bytes.writeUInt16BE(used, block + 2 * (data / 65536));
    writeFileSync(file('a.qcow2'), Buffer.concat([bytes, Buffer.alloc(65536)]));
  }
  const theirStatus = (): number => {
    try {
      qemuImg('check', '-f', 'qcow2', file('a.qcow2'));
      return 0;
    } catch {
      return 'corruptions' in qemuCheck(file('a.qcow2')) ? 2 : 3;
    }
  };

  it.each([
    ['nothing', 0, 1, 0],
    ['leaks', 1, 1, 3],
    ['errors', 0, 0, 2],
    ['errors and leaks', 1, 0, 2],
  ])('tells by its status that there is: %s', (_what, unused, used, status) => {
    damaged(unused, used);
    const plain = tsvm('check', 'a.qcow2');
    expect(plain.code).toBe(status);
    expect(plain.code).toBe(theirStatus());
    expect(plain.stderr).toBe('');
    const json = tsvm('check', '--json', 'a.qcow2');
    expect(json.code).toBe(status);
    expect(JSON.parse(json.stdout)).toMatchObject({
      errors: used === 0 ? 1 : 0,
      leaks: unused,
      allocatedClusters: 16,
    });
  });

  it.each([
    ['leaks', 1, 1, 'leaksFixed'],
    ['errors', 0, 0, 'errorsFixed'],
  ])('repairs %s', (_what, unused, used, counter) => {
    damaged(unused, used);
    const { code, stdout } = tsvm('check', '--repair', '--json', 'a.qcow2');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ errors: 0, leaks: 0, [counter]: 1 });
    expect(qemuCheck(file('a.qcow2'))).toMatchObject({ 'check-errors': 0 });
    expect(theirStatus()).toBe(0);
    qemuIo(file('a.qcow2'), 'read -P 1 0 1M');
  });

  it('repairs only leaks where only that is asked for', () => {
    damaged(1, 0);
    const { code, stdout } = tsvm('check', '--repair-leaks', '--json', 'a.qcow2');
    expect(code).toBe(2);
    expect(JSON.parse(stdout)).toMatchObject({ errors: 1, errorsFixed: 0, leaks: 0, leaksFixed: 1 });
  });

  it('could not check what is no qcow2 image', () => {
    sampleRaw();
    expect(refused(1, 'check', 'a.raw')).toMatch(/^tsvm: a.raw: /);
  });
});

describe.skipIf(!haveScript)('a long command', () => {
  it('shows a bar on a terminal, and takes it away', async () => {
    writeFileSync(file('a.raw'), Buffer.alloc(300 * MIB, 'text that compresses '));
    using terminal = new PseudoTerminal(
      TSVM,
      `$PROGRAM disk convert -f raw --compress ${file('a.raw')} ${file('b.qcow2')}`,
    );
    await terminal.shows(/converting .*\[#+\.+\] \d+%/);
    const { status } = await terminal.ended();
    expect(status).toBe(0);
    expect(terminal.output).toMatch(/\r +\r\S*b.qcow2: qcow2, 300 MiB, takes /);
  });
});
