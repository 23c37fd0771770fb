/** Snapshots of VMs that do not run, by the built command line, on real disks that QEMU's tools write and check. */
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import { withGuestDisk } from '../../src/storage/guest-fs/guest-disk.ts';
import { Random } from '../fuzz/random.ts';
import { noQemuTools, qemuCheck, qemuImg, qemuIo } from '../support/storage/qemu-img.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

const folderOf = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);
const diskOf = (name: string): string => join(folderOf(name), 'root.qcow2');
const layersOf = (name: string): string[] =>
  readdirSync(folderOf(name)).filter((file) => file.startsWith('layer-'));

/** Fills 64 KiB of a VM's disk, as its guest would. */
const write = (name: string, pattern: number, at = '0'): string =>
  qemuIo(diskOf(name), `write -P ${pattern} ${at} 64k`);
/** @throws Error where the disk has something else there */
const expectAt = (name: string, pattern: number, at = '0'): void => {
  const said = qemuIo(diskOf(name), `read -P ${pattern} ${at} 64k`);
  if (said.includes('failed')) throw new Error(said);
};

type Row = {
  readonly vm: string;
  readonly name: string;
  readonly parent?: string;
  readonly depth: number;
  readonly current: boolean;
  readonly memory: boolean;
  readonly own: number;
  readonly shared: number;
};
const list = async (name: string): Promise<Row[]> =>
  JSON.parse(await home.ok('snapshot', 'ls', '--json', name)) as Row[];

/** What qemu-img and tsvm think of a VM's disk with all below it. */
async function checkDisks(name: string): Promise<void> {
  for (const file of ['root.qcow2', ...layersOf(name)]) {
    const path = join(folderOf(name), file);
    expect(qemuCheck(path)).not.toHaveProperty('corruptions');
    expect(qemuCheck(path)).not.toHaveProperty('leaks');
    await home.ok('disk', 'check', path);
  }
}

describe.skipIf(noQemuTools !== undefined)('snapshots of a VM that is off', () => {
  test('a disk goes back to what it was, and forth again', async () => {
    await home.create('web');
    write('web', 1);
    expect(await home.ok('snapshot', 'create', 'web', 'one')).toBe('one: disks only\n');
    write('web', 2);
    expect(await home.ok('snapshot', 'create', '-q', 'web')).toBe('snapshot1\n');
    write('web', 3);
    await home.ok('restore', '--force', 'web', 'one');
    expectAt('web', 1);
    await home.ok('restore', '--force', 'web', 'snapshot1');
    expectAt('web', 2);
    await checkDisks('web');
  });

  test('settings go back too', async () => {
    await home.create('web');
    await home.ok('snapshot', 'create', 'web', 'small');
    await home.ok('set', '--mem', '64M', 'web');
    await home.ok('restore', '--force', 'web', 'small');
    const { settings } = JSON.parse(await home.ok('info', '--json', 'web')) as {
      settings: { vm: { memory: number } };
    };
    expect(settings.vm.memory).toBe(32 * 2 ** 20);
  });

  test('nothing is copied: the disk becomes a layer that nobody writes to', async () => {
    await home.create('web');
    write('web', 1);
    const { ino } = statSync(diskOf('web'));
    await home.ok('snapshot', 'create', 'web', 'one');
    const [layer = ''] = layersOf('web');
    const stat = statSync(join(folderOf('web'), layer));
    expect([stat.ino, stat.mode & 0o777, stat.nlink]).toEqual([ino, 0o400, 1]);
    const info = JSON.parse(qemuImg('info', '--output=json', diskOf('web'))) as Record<string, unknown>;
    expect(info['backing-filename']).toBe(layer);
  });

  test('they are a tree, with what each one takes', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'root');
    write('web', 2);
    await home.ok('snapshot', 'create', 'web', 'left');
    await home.ok('restore', '--force', 'web', 'root');
    write('web', 3);
    await home.ok('snapshot', 'create', 'web', 'right');
    const rows = await list('web');
    expect(rows.map(({ name, parent, depth, current }) => [name, parent, depth, current])).toEqual([
      ['root', undefined, 0, false],
      ['left', 'root', 1, false],
      ['right', 'root', 1, true],
    ]);
    const own = Object.fromEntries(rows.map((row) => [row.name, row.own]));
    const shared = Object.fromEntries(rows.map((row) => [row.name, row.shared]));
    // Only `left` needs what was written before it; both others are below the disk.
    expect(own['left']).toBeGreaterThanOrEqual(64 * 1024);
    expect(own['root']).toBeLessThan(64 * 1024);
    expect(own['right']).toBeLessThan(64 * 1024);
    expect(shared['right']).toBeGreaterThanOrEqual(128 * 1024);
    expect(await home.ok('snapshot', 'ls', 'web')).toMatch(
      /^web {2}root .*\nweb {4}left .*\nweb {4}right \* /m,
    );
    expect(await home.ok('snapshot', 'ls', '-q')).toBe('web@root\nweb@left\nweb@right\n');
  });

  test('one in the middle is removed: what its children need stays', async () => {
    await home.create('web');
    for (const [name, pattern, at] of [
      ['one', 1, '0'],
      ['two', 2, '64k'],
      ['three', 3, '128k'],
    ] as const) {
      write('web', pattern, at);
      await home.ok('snapshot', 'create', 'web', name);
    }
    expect(layersOf('web')).toHaveLength(3);
    await home.ok('snapshot', 'rm', 'web', 'two');
    expect((await list('web')).map(({ name, parent }) => [name, parent])).toEqual([
      ['one', undefined],
      ['three', 'one'],
    ]);
    expect(layersOf('web')).toHaveLength(2);
    await checkDisks('web');
    await home.ok('restore', '--force', 'web', 'three');
    expectAt('web', 1);
    expectAt('web', 2, '64k');
    expectAt('web', 3, '128k');
    await home.ok('restore', '--force', 'web', 'one');
    expectAt('web', 0, '64k');
  });

  test('where all are removed, one file is left, with all that was written', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2, '64k');
    await home.ok('snapshot', 'create', 'web', 'two');
    write('web', 3, '128k');
    await home.ok('snapshot', 'rm', 'web', 'one', 'two');
    expect(layersOf('web')).toEqual([]);
    expect(await list('web')).toEqual([]);
    expectAt('web', 1);
    expectAt('web', 2, '64k');
    expectAt('web', 3, '128k');
    await checkDisks('web');
    await home.ok('start', 'web');
  });

  test('a branch that nobody needs any more is removed whole', async () => {
    await home.create('web');
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2);
    await home.ok('snapshot', 'create', 'web', 'two');
    await home.ok('restore', '--force', 'web', 'one');
    expect(layersOf('web')).toHaveLength(2);
    await home.ok('snapshot', 'rm', 'web', 'two');
    expect(layersOf('web')).toHaveLength(1);
    expectAt('web', 0);
  });

  test('what the VM is now is saved before it goes back', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2);
    await home.ok('restore', 'web', 'one', '--save-current', 'later');
    expectAt('web', 1);
    await home.ok('restore', '--force', 'web', 'later');
    expectAt('web', 2);
  });

  test('nobody to ask: what the VM is now is not lost', async () => {
    await home.create('web');
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2);
    const { code, stderr } = await home.tsvm('restore', 'web', 'one');
    expect([code, stderr]).toEqual([2, expect.stringContaining('would be lost')]);
    expectAt('web', 2);
  });

  test('names are checked, taken ones refused, and a snapshot gets another', async () => {
    await home.create('web');
    await home.ok('snapshot', 'create', 'web', 'one');
    for (const name of ['One', '../one', '.one', 'one.two', '-one']) {
      const { code, stderr } = await home.tsvm('snapshot', 'create', 'web', '--', name);
      expect([code, stderr]).toEqual([1, expect.stringContaining('is no name for a snapshot')]);
    }
    expect((await home.tsvm('snapshot', 'create', 'web', 'one')).stderr).toContain(
      "has a snapshot 'one' already",
    );
    await home.ok('snapshot', 'create', 'web', 'two');
    await home.ok('snapshot', 'rename', 'web', 'one', 'first');
    expect((await home.tsvm('snapshot', 'rename', 'web', 'first', 'two')).stderr).toContain('already');
    expect((await list('web')).map(({ name, parent }) => [name, parent])).toEqual([
      ['first', undefined],
      ['two', 'first'],
    ]);
    expect((await home.tsvm('snapshot', 'info', 'web', 'one')).stderr).toContain(
      'hint: there are first, two',
    );
    expect(await home.ok('snapshot', 'info', 'web', 'first')).toMatch(/^name: +first\nid: +[0-9a-f-]{36}\n/);
  });

  test('a raw disk that is written to is refused, with what to do', async () => {
    await home.create('web');
    const raw = join(folderOf('web'), 'data.img');
    writeFileSync(raw, Buffer.alloc(1 << 20));
    const ini = join(folderOf('web'), 'vm.ini');
    const text = readFileSync(ini, 'utf8');
    const disk = (more: string): string =>
      text.replace('[network]', `[disk.1]\nfile = data.img\nformat = raw\n${more}\n[network]`);
    writeFileSync(ini, disk(''));
    const { code, stderr } = await home.tsvm('snapshot', 'create', 'web');
    expect(code).toBe(1);
    expect(stderr).toMatch(/data\.img is a raw disk\nhint: .*disk convert.*read-only = yes/);
    expect(layersOf('web')).toEqual([]);
    writeFileSync(ini, disk('read-only = yes'));
    await home.ok('snapshot', 'create', 'web');
  });

  test('a damaged one is told and keeps all others as they are, until it is removed', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    await home.ok('snapshot', 'create', 'web', 'two');
    const record = join(folderOf('web'), 'snapshots', 'one', 'snapshot.json');
    const text = readFileSync(record, 'utf8');
    const wrong: readonly [string, RegExp][] = [
      [text.slice(0, 40), /is damaged: snapshot\.json is not JSON/],
      [text.replace('"version": 1', '"version": 2'), /has version 2 of the format/],
      [text.replace(/"layer": ".*"/, '"layer": "../../../etc/passwd"'), /is damaged: .*'disks\.0\.layer'/],
      [text.replace('{', '{ "more": 1,'), /is damaged: .*more/],
      [
        text.replace(/"layer": ".*"/, '"layer": "0123456789abcdef"'),
        /layer-0123456789abcdef\.qcow2 is not there/,
      ],
    ];
    for (const [content, message] of wrong) {
      writeFileSync(record, content);
      const { code, stderr } = await home.tsvm('restore', '--force', 'web', 'one');
      expect([code, stderr]).toEqual([1, expect.stringMatching(message)]);
    }
    writeFileSync(record, '');
    expect((await home.tsvm('snapshot', 'ls', 'web')).stderr).toContain('is not JSON');
    await home.ok('snapshot', 'rm', 'web', 'two');
    expect(layersOf('web')).toHaveLength(2);
    await home.ok('snapshot', 'rm', 'web', 'one');
    expect(layersOf('web')).toEqual([]);
    expectAt('web', 1);
  });

  test('what a killed command has left is finished or removed by the next', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2);
    const snapshots = join(folderOf('web'), 'snapshots');
    const { id } = JSON.parse(readFileSync(join(snapshots, 'one', 'snapshot.json'), 'utf8')) as {
      id: string;
    };
    const coming = join(folderOf('web'), '.coming-root.qcow2');
    const prepareComing = (): void => {
      qemuImg('create', '-f', 'qcow2', '-F', 'qcow2', '-b', layersOf('web')[0]!, coming);
    };
    // As `restore` leaves it where it is killed before and after it has said that all is there.
    prepareComing();
    await home.ok('snapshot', 'rename', 'web', 'one', 'first');
    expect(existsSync(coming)).toBe(false);
    expectAt('web', 2);
    prepareComing();
    writeFileSync(join(snapshots, '.restoring'), JSON.stringify({ names: ['root.qcow2'], current: id }));
    await home.ok('snapshot', 'rename', 'web', 'first', 'one');
    expectAt('web', 1);
    expect(readdirSync(snapshots).sort()).toEqual(['.current', 'one']);
  });
});

test.skipIf(noQemuTools !== undefined)(
  'a command that is killed at any moment leaves the VM, and what it has, whole',
  async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'first');
    const random = new Random(7);
    for (const args of [
      ['snapshot', 'create', 'web'],
      ['restore', '--force', 'web', 'first'],
      ['snapshot', 'rm', 'web', 'extra'],
    ]) {
      for (let round = 0; round < 6; round++) {
        if (args[1] === 'rm') await home.tsvm('snapshot', 'create', 'web', 'extra');
        const command = home.begin(args);
        // It takes some 300 ms until it begins its work, which is done within some 50.
        setTimeout(() => command.kill('SIGKILL'), 200 + random.below(200));
        await command;
        await home.ok('snapshot', 'ls', 'web');
        expectAt('web', 1);
      }
    }
    await home.ok('snapshot', 'create', 'web', 'last');
    const names = (await list('web')).map(({ name }) => name);
    expect(names).toContain('first');
    await home.ok('snapshot', 'rm', 'web', ...names);
    expect(layersOf('web')).toEqual([]);
    expect(
      readdirSync(folderOf('web')).filter((file) => file.startsWith('.') || file.endsWith('.part')),
    ).toEqual([]);
    expectAt('web', 1);
    await checkDisks('web');
  },
);

/** What cloud-init is told: its meta data, and the user's file. */
async function seedOf(name: string): Promise<Record<string, string>> {
  return await withGuestDisk(
    { path: join(folderOf(name), 'seed.img'), format: 'raw' },
    async ({ volumes }) => {
      const fs = await volumes[0]!.open();
      const text = async (file: string): Promise<string> =>
        Buffer.from(await fs.readFile(`/${file}`, 100_000)).toString();
      return {
        ...(JSON.parse(await text('meta-data')) as Record<string, string>),
        'user-data': await text('user-data'),
      };
    },
  );
}

describe.skipIf(noQemuTools !== undefined)('clones of a VM that is off', () => {
  test('have its disk, and each writes to its own', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('clone', 'web', 'two');
    write('web', 2);
    write('two', 3, '64k');
    expectAt('two', 1);
    expectAt('two', 3, '64k');
    expectAt('web', 2);
    expectAt('web', 0, '64k');
    expect(await home.ok('snapshot', 'ls', 'web')).toMatch(/^There are no snapshots/);
    await checkDisks('two');
    await home.ok('start', 'two');
  });

  test('of a snapshot share its file, and outlive it and its VM', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    write('web', 2);
    const names = JSON.parse(await home.ok('clone', 'web@one', 'test', '--count', '3', '--json')) as string[];
    expect(names).toEqual(['test-1', 'test-2', 'test-3']);
    const [layer = ''] = layersOf('web');
    expect(statSync(join(folderOf('test-2'), layer)).nlink).toBe(4);
    const [row] = await list('web');
    expect(row?.own).toBeLessThan(64 * 1024);
    await home.ok('delete', 'web');
    await home.ok('delete', 'test-1');
    for (const name of ['test-2', 'test-3']) {
      expectAt(name, 1);
      await checkDisks(name);
      await home.ok('start', name);
    }
  });

  test('layers that clones have too are not joined', async () => {
    await home.create('web');
    write('web', 1);
    await home.ok('snapshot', 'create', 'web', 'one');
    await home.ok('clone', 'web@one', 'two');
    await home.ok('snapshot', 'rm', 'web', 'one');
    expect(layersOf('web')).toHaveLength(1);
    await home.ok('delete', 'two');
    await home.ok('snapshot', 'create', 'web', 'next');
    await home.ok('snapshot', 'rm', 'web', 'next');
    expect(layersOf('web')).toEqual([]);
    expectAt('web', 1);
  });

  test('are other machines to cloud-init, and to their guests', async () => {
    const file = join(home.folder, 'user.yaml');
    writeFileSync(file, '#cloud-config\npackages: [vim]\n');
    await home.create('web', '--cloud-init', file);
    await home.ok('clone', 'web', 'two');
    const [web, two] = [await seedOf('web'), await seedOf('two')];
    expect([web['local-hostname'], two['local-hostname']]).toEqual(['web', 'two']);
    expect(two['instance-id']).not.toBe(web['instance-id']);
    expect(two['user-data']).toBe(web['user-data']);
    const identity = JSON.parse(readFileSync(join(folderOf('two'), 'clone.json'), 'utf8')) as unknown;
    expect(identity).toEqual({
      hostname: 'two',
      machineId: expect.stringMatching(/^[0-9a-f]{32}$/) as string,
      instanceId: two['instance-id'],
      addresses: [],
      boots: true,
      renews: true,
    });
  });

  test('names that are taken, or none, make nothing', async () => {
    await home.create('web');
    await home.create('two-2');
    expect((await home.tsvm('clone', 'web', 'two', '--count', '3')).stderr).toContain("a VM 'two-2' already");
    expect((await home.tsvm('clone', 'web@none', 'two')).stderr).toContain("there is no snapshot 'none'");
    expect((await home.tsvm('clone', 'web@a@b', 'two')).code).toBe(2);
    expect((await home.tsvm('clone', 'web', 'Two')).code).toBe(1);
    expect(await home.ok('list', '-q')).toBe('two-2\nweb\n');
  });
});
