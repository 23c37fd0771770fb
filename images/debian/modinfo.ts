/** What a kernel module says about itself in its ELF section `.modinfo`. */
export type ModuleInfo = {
  /** modules that must be there before it, from `depends=` */
  readonly needs: readonly string[];
  /** modules or aliases of some that go before it where there are such, from `softdep=pre:` */
  readonly wants: readonly string[];
};

const ELF64_LITTLE_ENDIAN = Buffer.from([0x7f, 0x45, 0x4c, 0x46, 2, 1]);

/**
 * Reads a module file (ELF-64, little-endian; System V gABI, "Section Header").
 * @throws RangeError where the file is no such module
 */
export function readModuleInfo(file: Buffer): ModuleInfo {
  const needs: string[] = [];
  const wants: string[] = [];
  for (const line of modinfoSection(file).toString('latin1').split('\0')) {
    const [key, value] = splitOnce(line, '=');
    if (key === 'depends') needs.push(...value.split(',').filter((name) => name !== ''));
    const soft = key === 'softdep' ? /\bpre:\s*([^:]*?)(?=\s+post:|$)/.exec(value)?.[1] : undefined;
    if (soft !== undefined) wants.push(...soft.split(/\s+/).filter((name) => name !== ''));
  }
  return { needs, wants };
}

function modinfoSection(file: Buffer): Buffer {
  if (file.length < 64 || !file.subarray(0, 6).equals(ELF64_LITTLE_ENDIAN)) {
    throw new RangeError('not an ELF-64 file');
  }
  const table = Number(file.readBigUInt64LE(40)); // e_shoff
  const entrySize = file.readUInt16LE(58); // e_shentsize
  const count = file.readUInt16LE(60); // e_shnum
  const names = section(file, table, entrySize, file.readUInt16LE(62)); // e_shstrndx
  for (let i = 0; i < count; i++) {
    const header = slice(file, table + i * entrySize, 64);
    const name = header.readUInt32LE(0);
    const end = names.indexOf(0, name);
    if (end >= 0 && names.toString('latin1', name, end) === '.modinfo')
      return section(file, table, entrySize, i);
  }
  throw new RangeError('no section .modinfo');
}

function section(file: Buffer, table: number, entrySize: number, index: number): Buffer {
  const header = slice(file, table + index * entrySize, 64);
  return slice(file, Number(header.readBigUInt64LE(24)), Number(header.readBigUInt64LE(32))); // sh_offset, sh_size
}

function slice(file: Buffer, offset: number, length: number): Buffer {
  if (offset + length > file.length) throw new RangeError('ELF file is cut short');
  return file.subarray(offset, offset + length);
}

function splitOnce(text: string, separator: string): [string, string] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, ''] : [text.slice(0, at), text.slice(at + separator.length)];
}
