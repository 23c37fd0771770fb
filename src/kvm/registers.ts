/** struct kvm_regs and struct kvm_sregs (arch/x86/include/uapi/asm/kvm.h) as named numbers. */

const GENERAL = [
  'rax',
  'rbx',
  'rcx',
  'rdx',
  'rsi',
  'rdi',
  'rsp',
  'rbp',
  'r8',
  'r9',
  'r10',
  'r11',
  'r12',
  'r13',
  'r14',
  'r15',
  'rip',
  'rflags',
] as const;

export type GeneralRegisters = Record<(typeof GENERAL)[number], bigint>;

export type Segment = {
  base: bigint;
  limit: number;
  selector: number;
  type: number;
  present: number;
  dpl: number;
  db: number;
  s: number;
  l: number;
  g: number;
  avl: number;
  unusable: number;
};

export type DescriptorTable = { base: bigint; limit: number };

const SEGMENTS = ['cs', 'ds', 'es', 'fs', 'gs', 'ss', 'tr', 'ldt'] as const;
const TABLES = ['gdt', 'idt'] as const;
const CONTROL = ['cr0', 'cr2', 'cr3', 'cr4', 'cr8', 'efer', 'apicBase'] as const;
const ATTRIBUTES = ['type', 'present', 'dpl', 'db', 's', 'l', 'g', 'avl', 'unusable'] as const;

export type SpecialRegisters = Record<(typeof SEGMENTS)[number], Segment> &
  Record<(typeof TABLES)[number], DescriptorTable> &
  Record<(typeof CONTROL)[number], bigint> & {
    /** pending external interrupt vectors, 256 bits */
    interruptBitmap: bigint[];
  };

const REGS_SIZE = GENERAL.length * 8;
const SEGMENT_SIZE = 24;
const TABLE_SIZE = 16;
const TABLES_AT = SEGMENTS.length * SEGMENT_SIZE;
const CONTROL_AT = TABLES_AT + TABLES.length * TABLE_SIZE;
const BITMAP_AT = CONTROL_AT + CONTROL.length * 8;
const SREGS_SIZE = BITMAP_AT + 4 * 8;

function viewOf(bytes: Uint8Array, size: number): DataView {
  if (bytes.length !== size)
    throw new RangeError(`register state has ${bytes.length} bytes instead of ${size}`);
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
}

export function decodeRegs(bytes: Uint8Array): GeneralRegisters {
  const view = viewOf(bytes, REGS_SIZE);
  return Object.fromEntries(
    GENERAL.map((name, i) => [name, view.getBigUint64(i * 8, true)]),
  ) as GeneralRegisters;
}

export function encodeRegs(regs: GeneralRegisters): Uint8Array {
  const bytes = new Uint8Array(REGS_SIZE);
  const view = viewOf(bytes, REGS_SIZE);
  GENERAL.forEach((name, i) => view.setBigUint64(i * 8, regs[name], true));
  return bytes;
}

function decodeSegment(view: DataView, at: number): Segment {
  const attributes = Object.fromEntries(
    ATTRIBUTES.map((name, i) => [name, view.getUint8(at + 14 + i)]),
  ) as Pick<Segment, (typeof ATTRIBUTES)[number]>;
  return {
    base: view.getBigUint64(at, true),
    limit: view.getUint32(at + 8, true),
    selector: view.getUint16(at + 12, true),
    ...attributes,
  };
}

function encodeSegment(view: DataView, at: number, segment: Segment): void {
  view.setBigUint64(at, segment.base, true);
  view.setUint32(at + 8, segment.limit, true);
  view.setUint16(at + 12, segment.selector, true);
  ATTRIBUTES.forEach((name, i) => view.setUint8(at + 14 + i, segment[name]));
}

export function decodeSregs(bytes: Uint8Array): SpecialRegisters {
  const view = viewOf(bytes, SREGS_SIZE);
  return {
    ...Object.fromEntries(SEGMENTS.map((name, i) => [name, decodeSegment(view, i * SEGMENT_SIZE)])),
    ...Object.fromEntries(
      TABLES.map((name, i) => {
        const at = TABLES_AT + i * TABLE_SIZE;
        return [name, { base: view.getBigUint64(at, true), limit: view.getUint16(at + 8, true) }];
      }),
    ),
    ...Object.fromEntries(CONTROL.map((name, i) => [name, view.getBigUint64(CONTROL_AT + i * 8, true)])),
    interruptBitmap: [0, 1, 2, 3].map((i) => view.getBigUint64(BITMAP_AT + i * 8, true)),
  } as SpecialRegisters;
}

export function encodeSregs(sregs: SpecialRegisters): Uint8Array {
  const bytes = new Uint8Array(SREGS_SIZE);
  const view = viewOf(bytes, SREGS_SIZE);
  SEGMENTS.forEach((name, i) => encodeSegment(view, i * SEGMENT_SIZE, sregs[name]));
  TABLES.forEach((name, i) => {
    const at = TABLES_AT + i * TABLE_SIZE;
    view.setBigUint64(at, sregs[name].base, true);
    view.setUint16(at + 8, sregs[name].limit, true);
  });
  CONTROL.forEach((name, i) => view.setBigUint64(CONTROL_AT + i * 8, sregs[name], true));
  sregs.interruptBitmap.forEach((bits, i) => view.setBigUint64(BITMAP_AT + i * 8, bits, true));
  return bytes;
}
