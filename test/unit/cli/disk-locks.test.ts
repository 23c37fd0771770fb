/** Who may use an image while others do: real processes, ours and QEMU's. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';

import { noQemuTools, qemuCheck, qemuImg } from '../../support/storage/qemu-img.ts';
import { bundle } from './support/bundle.ts';
import { diskFolder } from './support/disk-folder.ts';
import { Background } from './support/run-tsvm.ts';

const HOLDER = bundle('../../../support/storage/hold-disks.ts');

const folder = diskFolder();
const { tsvm, made } = folder;

/** A process that has these disks as a VM has them. */
async function vmWith(...disks: string[]): Promise<Background> {
  const vm = new Background(process.execPath, [HOLDER, ...disks], folder.path);
  await vm.shows(/\n/);
  return vm;
}

/** base.qcow2, and a.qcow2 and b.qcow2 on it */
function makeOverlays(): void {
  made('create', 'base.qcow2', '8M');
  made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'a.qcow2');
  made('create', '-b', 'base.qcow2', '-F', 'qcow2', 'b.qcow2');
}

describe('an image that a VM writes to', () => {
  const FORMATS = [
    ['raw', 'disk'],
    ['qcow2', 'disk,format=qcow2'],
  ] as const;

  it.each(FORMATS)('is refused to a second VM, which names the first one: %s', async (format, disk) => {
    made('create', '--format', format, 'disk', '8M');
    const first = await vmWith(disk);
    expect(first.output).toBe('open\n');
    const second = await vmWith(disk);
    expect(second.output).toContain(
      `disk: cannot be opened to be written to: process ${first.pid} (${process.execPath} `,
    );
    expect(second.output).toContain('end that process first');
  });

  it.each(FORMATS)('is refused to all commands that open it: %s', async (format, disk) => {
    made('create', '--format', format, 'disk', '8M');
    const vm = await vmWith(disk);
    const before = readFileSync(folder.file('disk'));
    const commands = [
      ['info', 'disk'],
      ['map', '-f', format, 'disk'],
      ['resize', '-f', format, 'disk', '16M'],
      ['convert', '-f', format, 'disk', 'copy'],
      ['create', '--force', 'disk', '1M'],
      ['create', '-b', 'disk', '-F', format, 'overlay'],
      ...(format === 'qcow2'
        ? [
            ['check', 'disk'],
            ['check', '--repair', 'disk'],
            ['rebase', '--flatten', 'disk'],
          ]
        : []),
    ];
    for (const command of commands) {
      const { code, stderr } = tsvm(...command);
      expect(stderr, command.join(' ')).toMatch(
        new RegExp(
          `^tsvm: .*disk: cannot be opened to be .*: process ${vm.pid} \\(.*is writing to it\nhint: `,
        ),
      );
      expect(code, command.join(' ')).toBe(1);
    }
    expect(Buffer.compare(readFileSync(folder.file('disk')), before)).toBe(0);
  });

  it('is looked at with --force-share', async () => {
    made('create', 'disk', '8M');
    await vmWith('disk,format=qcow2');
    expect(tsvm('info', '-U', 'disk')).toMatchObject({ code: 0, stderr: '' });
  });

  it('is free again once the VM is gone, however it went', async () => {
    made('create', 'disk', '8M');
    const vm = await vmWith('disk,format=qcow2');
    vm.process.kill('SIGKILL');
    await vm.ends();
    made('resize', '-f', 'qcow2', 'disk', '16M');
  });

  it('is refused as a second disk of the same VM', async () => {
    made('create', 'disk', '8M');
    const vm = await vmWith('disk,format=qcow2', 'disk,format=qcow2');
    expect(vm.output).toContain(`this process itself (${vm.pid}) is writing to it`);
  });

  it('can be resized by that VM', async () => {
    made('create', 'disk', '8M');
    const vm = await vmWith('disk,format=qcow2');
    vm.say(`resize 0 ${2 ** 30}`);
    await vm.shows(/resized/);
    await vm.ends();
    expect(JSON.parse(tsvm('info', '--json', 'disk').stdout)).toMatchObject({ virtualSize: 2 ** 30 });
  });
});

describe('an image that is only read', () => {
  it('has many readers: two VMs with overlays on it, and a third that has it read-only', async () => {
    makeOverlays();
    for (const disk of ['a.qcow2,format=qcow2', 'b.qcow2,format=qcow2', 'base.qcow2,format=qcow2,ro'])
      expect((await vmWith(disk)).output).toBe('open\n');
    made('convert', '-f', 'qcow2', 'base.qcow2', 'copy.qcow2');
    made('check', 'base.qcow2');
    made('info', '--chain', 'base.qcow2');
  });

  it.each([
    ['a resize', 'resize', '-f', 'qcow2', 'base.qcow2', '16M'],
    ['a repair', 'check', '--repair', 'base.qcow2'],
    ['a commit', 'commit', 'b.qcow2'],
    ['a new image', 'create', '--force', 'base.qcow2', '16M'],
    ['a copy', 'convert', '--force', '-f', 'qcow2', 'b.qcow2', 'base.qcow2'],
  ])('is not written to below an overlay in use: %s', async (_what, ...command) => {
    makeOverlays();
    const vm = await vmWith('a.qcow2,format=qcow2');
    const before = readFileSync(folder.file('base.qcow2'));
    const { code, stderr } = tsvm(...command);
    expect(stderr).toMatch(/base.qcow2: cannot be opened to be written to: process \d+ \(/);
    // Converting onto its own backing file, it is in its own way.
    if (command[0] !== 'convert') expect(stderr).toContain(`process ${vm.pid} (`);
    expect(stderr).toContain('is reading it');
    expect(code).toBe(1);
    expect(Buffer.compare(readFileSync(folder.file('base.qcow2')), before)).toBe(0);
  });

  it('is not opened for writing by a VM below an overlay in use', async () => {
    makeOverlays();
    const vm = await vmWith('a.qcow2,format=qcow2');
    const writer = await vmWith('base.qcow2,format=qcow2');
    expect(writer.output).toMatch(
      new RegExp(
        `^base.qcow2: cannot be opened to be written to: process ${vm.pid} \\(.*is reading it\n.*overlay`,
      ),
    );
  });

  it('is refused below an overlay while somebody writes to it, and the chain is named', async () => {
    makeOverlays();
    await vmWith('base.qcow2,format=qcow2');
    const overlay = await vmWith('a.qcow2,format=qcow2');
    expect(overlay.output).toMatch(
      /^a.qcow2: backing file base.qcow2: cannot .* is writing to it \(chain: a.qcow2 <- base.qcow2\)\n/,
    );
  });
});

describe('two that begin at the same time', () => {
  it('never both write', async () => {
    made('create', 'disk', '8M');
    for (let round = 0; round < 5; round++) {
      const both = await Promise.all([vmWith('disk,format=qcow2'), vmWith('disk,format=qcow2')]);
      expect(both.filter(({ output }) => output === 'open\n').length).toBeLessThanOrEqual(1);
      for (const vm of both) await vm.ends();
    }
  });
});

describe.skipIf(noQemuTools !== undefined)("QEMU's programs", () => {
  it.each(['raw', 'qcow2'])('are kept from an image that we write to: %s', async (format) => {
    made('create', '--format', format, 'disk', '8M');
    await vmWith(`disk,format=${format}`);
    expect(() => qemuImg('resize', '-f', format, folder.file('disk'), '16M')).toThrow(/Failed to get .*lock/);
    expect(() =>
      qemuImg('convert', '-f', format, '-O', 'raw', folder.file('disk'), folder.file('x')),
    ).toThrow(/Failed to get .*lock/);
  });

  it('read a backing file with us, and do not write to it', async () => {
    makeOverlays();
    await vmWith('a.qcow2,format=qcow2');
    expect(qemuCheck(folder.file('base.qcow2'))).toMatchObject({ 'check-errors': 0 });
    expect(() => qemuImg('resize', '-f', 'qcow2', folder.file('base.qcow2'), '16M')).toThrow(
      /Failed to get .*lock/,
    );
  });

  it.each(['raw', 'qcow2'])('keep us from an image that they write to, and are named: %s', async (format) => {
    made('create', '--format', format, 'disk', '8M');
    const qemu = new Background('qemu-io', ['-f', format, 'disk'], folder.path);
    qemu.say('write -P 5 0 64k');
    await qemu.shows(/wrote 65536/);
    const vm = await vmWith(`disk,format=${format}`);
    expect(vm.output).toContain(`process ${qemu.pid} (qemu-io -f ${format} disk) is writing to it`);
    expect(tsvm('resize', '-f', format, 'disk', '16M').stderr).toContain(`process ${qemu.pid} (qemu-io`);
    qemu.say('quit');
    await qemu.ends();
    made('resize', '-f', format, 'disk', '16M');
  });

  it('keep us from writing to an image that they read, and let us read it', async () => {
    made('create', 'disk', '8M');
    const qemu = new Background('qemu-io', ['-r', '-f', 'qcow2', 'disk'], folder.path);
    qemu.say('read 0 64k');
    await qemu.shows(/read 65536/);
    const { stderr } = tsvm('resize', '-f', 'qcow2', 'disk', '16M');
    expect(stderr).toContain(`process ${qemu.pid} (qemu-io -r -f qcow2 disk) is reading it`);
    made('map', '-f', 'qcow2', 'disk');
  });
});
