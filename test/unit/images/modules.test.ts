import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { moduleOrder } from '../../../images/debian/kernel.ts';
import { readModuleInfo } from '../../../images/debian/modinfo.ts';

/** The least ELF-64 file with a section .modinfo: header, names, content, then three section headers. */
function moduleFile(...lines: string[]): Buffer {
  const names = Buffer.from('\0.shstrtab\0.modinfo\0');
  const content = Buffer.from(lines.map((line) => `${line}\0`).join(''));
  const table = 64 + names.length + content.length;
  const header = Buffer.alloc(64);
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeBigUInt64LE(BigInt(table), 40);
  header.writeUInt16LE(64, 58);
  header.writeUInt16LE(3, 60);
  header.writeUInt16LE(1, 62);
  const section = (name: number, offset: number, size: number) => {
    const entry = Buffer.alloc(64);
    entry.writeUInt32LE(name, 0);
    entry.writeBigUInt64LE(BigInt(offset), 24);
    entry.writeBigUInt64LE(BigInt(size), 32);
    return entry;
  };
  const headers = [
    Buffer.alloc(64),
    section(1, 64, names.length),
    section(names.indexOf('.modinfo'), 64 + names.length, content.length),
  ];
  return Buffer.concat([header, names, content, ...headers]);
}

describe('readModuleInfo', () => {
  it('gives the modules of depends=', () => {
    expect(readModuleInfo(moduleFile('license=GPL', 'depends=kvm,ccp', 'name=kvm_amd')).needs).toEqual([
      'kvm',
      'ccp',
    ]);
  });

  it('gives none where depends= is empty', () => {
    expect(readModuleInfo(moduleFile('depends=')).needs).toEqual([]);
  });

  it('gives what softdep= wants before it, and not what it wants after it', () => {
    expect(readModuleInfo(moduleFile('softdep=pre: crc32c aes post: extra', 'depends=a'))).toEqual({
      needs: ['a'],
      wants: ['crc32c', 'aes'],
    });
    expect(readModuleInfo(moduleFile('softdep=post: extra pre: first')).wants).toEqual(['first']);
  });

  it('refuses what is no ELF file', () => {
    expect(() => readModuleInfo(Buffer.alloc(100))).toThrow(/not an ELF-64 file/);
  });

  it('refuses an ELF file cut short anywhere', () => {
    const whole = moduleFile('depends=kvm');
    for (let length = 0; length < whole.length; length++) {
      expect(() => readModuleInfo(whole.subarray(0, length))).toThrow(RangeError);
    }
  });

  it('refuses a section beyond the end of the file', () => {
    const file = moduleFile('depends=kvm');
    file.writeBigUInt64LE(2n ** 63n, file.length - 64 + 24);
    expect(() => readModuleInfo(file)).toThrow(RangeError);
  });
});

describe('moduleOrder', () => {
  let modules: string;
  const add = (path: string, ...lines: string[]): void => {
    mkdirSync(dirname(join(modules, path)), { recursive: true });
    writeFileSync(join(modules, path), moduleFile(...lines));
  };
  const order = async (...names: string[]) => (await moduleOrder({ modules }, names)).map(({ name }) => name);

  beforeEach(() => {
    modules = mkdtempSync(join(tmpdir(), 'tsvm-modules-'));
    writeFileSync(
      join(modules, 'modules.builtin'),
      'kernel/drivers/tty/serial/8250/8250.ko\nkernel/lib/crc32-gen.ko\n',
    );
  });
  afterEach(() => rmSync(modules, { recursive: true }));

  it('puts what a module needs before it', async () => {
    add('kernel/a.ko', 'depends=b');
    add('kernel/b.ko', 'depends=c');
    add('kernel/deep/down/c.ko', 'depends=');
    expect(await order('a')).toEqual(['c', 'b', 'a']);
  });

  it('gives a module once that several need', async () => {
    add('a.ko', 'depends=common');
    add('b.ko', 'depends=common');
    add('common.ko', 'depends=');
    expect(await order('a', 'b', 'common')).toEqual(['common', 'a', 'b']);
  });

  it('takes dashes and underscores as the same', async () => {
    add('kvm-amd.ko', 'depends=my_dep');
    add('my-dep.ko', 'depends=');
    expect(await moduleOrder({ modules }, ['kvm-amd'])).toEqual([
      { name: 'my_dep', file: join(modules, 'my-dep.ko') },
      { name: 'kvm_amd', file: join(modules, 'kvm-amd.ko') },
    ]);
  });

  it('leaves out what is built into the kernel', async () => {
    add('a.ko', 'depends=crc32_gen');
    expect(await order('8250', 'a')).toEqual(['a']);
  });

  it('comes to an end where modules need each other', async () => {
    add('a.ko', 'depends=b');
    add('b.ko', 'depends=a');
    expect(await order('a')).toEqual(['b', 'a']);
  });

  it('names a module that is not there and who needs it', async () => {
    add('a.ko', 'depends=ghost');
    await expect(order('a')).rejects.toThrow(/no module ghost .*needed by a/);
  });

  it('goes on without what a module merely wants', async () => {
    add('a.ko', 'softdep=pre: ghost b');
    add('b.ko');
    expect(await order('a')).toEqual(['b', 'a']);
  });

  it('names a module that is compressed', async () => {
    add('a.ko.xz');
    await expect(order('a')).rejects.toThrow(/a\.ko\.xz is compressed/);
  });
});
