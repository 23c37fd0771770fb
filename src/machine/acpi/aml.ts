/**
 * Builds ACPI Machine Language (ACPI 6.4, chapter 20 "ACPI Machine Language (AML) Specification"). Every function
 * returns the encoded bytes of its term; terms nest by being passed on. A term that cannot be encoded is a
 * RangeError that names it: the input is tsvm's own, never the guest's.
 */

import { uuidBytes } from '../uuid.ts';

/** Encoded bytes of one or several AML terms. */
export type Term = Uint8Array;

export function concat(...parts: readonly ArrayLike<number>[]): Term {
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    bytes.set(part, at);
    at += part.length;
  }
  return bytes;
}

/** Little-endian bytes of an unsigned number. @throws RangeError where it does not fit */
export function littleEndian(value: number | bigint, size: 1 | 2 | 4 | 8): Term {
  const wide = BigInt(value);
  if (wide < 0n || wide >= 1n << BigInt(8 * size)) {
    throw new RangeError(`0x${wide.toString(16)} does not fit ${size} bytes`);
  }
  return Uint8Array.from({ length: size }, (_, i) => Number((wide >> BigInt(8 * i)) & 0xffn));
}

/** Opcode of the operators behind ExtOpPrefix. */
const EXTENDED = 0x5b;

// Lengths (20.2.4 "Package Length Encoding")

const PACKAGE_LENGTH_LIMIT = 2 ** 28;

/** PkgLength as such: 6 bits in one byte, else 4 bits and one to three bytes more. */
function encodeLength(value: number, size: number): Term {
  if (size === 1) return Uint8Array.of(value);
  const lead = ((size - 1) << 6) | (value & 0xf);
  return Uint8Array.from([lead, ...littleEndian(value >>> 4, 4).subarray(0, size - 1)]);
}

/** Smallest number of bytes that a PkgLength of this value takes. */
function lengthSize(value: number): number {
  return [0x40, 0x1000, 0x10_0000, PACKAGE_LENGTH_LIMIT].findIndex((limit) => value < limit) + 1;
}

/**
 * PkgLength in front of `bodySize` bytes; it counts itself.
 * @throws RangeError where the package would be 256 MiB or more
 */
export function packageLength(bodySize: number): Term {
  for (let size = 1; size <= 4; size++) {
    if (lengthSize(bodySize + size) === size) return encodeLength(bodySize + size, size);
  }
  throw new RangeError(`an AML package of ${bodySize} bytes is too long`);
}

function packaged(opcode: readonly number[], ...parts: readonly Term[]): Term {
  const body = concat(...parts);
  return concat(opcode, packageLength(body.length), body);
}

// Names (20.2.2 "Name Objects Encoding")

function segment(name: string): Term {
  if (!/^[A-Z_][A-Z0-9_]{0,3}$/.test(name)) throw new RangeError(`"${name}" is no AML name segment`);
  return Uint8Array.from(name.padEnd(4, '_'), (letter) => letter.charCodeAt(0));
}

const ascii = (text: string): Term => Uint8Array.from(text, (letter) => letter.charCodeAt(0));

/**
 * A name or path: `PCI0`, `\_SB.PCI0`, `^^DEV`, `\` for the root. Segments are padded to four characters.
 * Calls of a method and references to an object are this too.
 */
export function path(name: string): Term {
  const [, prefix = '', rest = ''] = /^(\\|\^*)(.*)$/s.exec(name) ?? [];
  if (rest === '') {
    if (prefix === '') throw new RangeError('an AML path is empty');
    return concat(ascii(prefix), [0x00]);
  }
  const segments = rest.split('.').map(segment);
  if (segments.length > 255) throw new RangeError(`AML path of ${segments.length} segments`);
  const count = segments.length === 1 ? [] : segments.length === 2 ? [0x2e] : [0x2f, segments.length];
  return concat(ascii(prefix), count, ...segments);
}

// Data (20.2.3 "Data Objects Encoding")

const ONES = (1n << 64n) - 1n;

/** An integer in its shortest encoding. @param value 0 to 2^64 - 1 */
export function integer(value: number | bigint): Term {
  const wide = BigInt(value);
  if (wide === 0n || wide === 1n) return Uint8Array.of(Number(wide));
  if (wide === ONES) return Uint8Array.of(0xff);
  if (wide < 0x100n) return concat([0x0a], littleEndian(wide, 1));
  if (wide < 0x1_0000n) return concat([0x0b], littleEndian(wide, 2));
  if (wide < 0x1_0000_0000n) return concat([0x0c], littleEndian(wide, 4));
  return concat([0x0e], littleEndian(wide, 8));
}

/** A string of ASCII characters other than NUL. */
export function string(text: string): Term {
  if (!/^[\x01-\x7f]*$/.test(text)) throw new RangeError(`AML strings are ASCII: ${JSON.stringify(text)}`);
  return concat([0x0d], ascii(text), [0x00]);
}

export function buffer(bytes: ArrayLike<number>): Term {
  return packaged([0x11], integer(bytes.length), Uint8Array.from(bytes));
}

/** A package; one of more than 255 elements becomes a VarPackage. */
export function pkg(...elements: readonly Term[]): Term {
  if (elements.length <= 255) return packaged([0x12], Uint8Array.of(elements.length), ...elements);
  return packaged([0x13], integer(elements.length), ...elements);
}

/** A compressed EISA id such as `PNP0A08` (ACPI 6.4, 19.6 "EISAID"). */
export function eisaId(id: string): Term {
  const match = /^([A-Z])([A-Z])([A-Z])([0-9A-F]{4})$/.exec(id);
  if (match === null) throw new RangeError(`"${id}" is no EISA id`);
  const [a = 0, b = 0, c = 0] = match.slice(1, 4).map((letter) => letter.charCodeAt(0) - 0x40);
  const product = Number.parseInt(match[4]!, 16);
  return Uint8Array.of(0x0c, (a << 2) | (b >> 3), ((b & 7) << 5) | c, product >> 8, product & 0xff);
}

/** A hardware id as _HID and _CID take it: compressed where it is an EISA id, else a string (`ACPI0007`). */
export function hardwareId(id: string): Term {
  return /^[A-Z]{3}[0-9A-F]{4}$/.test(id) ? eisaId(id) : string(id);
}

/** A UUID as a buffer. */
export const uuid = (text: string): Term => buffer(uuidBytes(text));

// Named objects (20.2.5.1, 20.2.5.2)

export const name = (at: string, value: Term): Term => concat([0x08], path(at), value);
export const scope = (at: string, ...terms: readonly Term[]): Term => packaged([0x10], path(at), ...terms);
export const device = (at: string, ...terms: readonly Term[]): Term =>
  packaged([EXTENDED, 0x82], path(at), ...terms);

export type MethodOptions = {
  /** number of arguments, 0 to 7; default 0 */
  readonly args?: number;
  /** one caller at a time; a method that creates named objects must be; default false */
  readonly serialized?: boolean;
};

export function method(at: string, options: MethodOptions, ...body: readonly Term[]): Term {
  const args = options.args ?? 0;
  if (!(Number.isInteger(args) && args >= 0 && args <= 7))
    throw new RangeError('AML methods take up to 7 arguments');
  const flags = args | (options.serialized === true ? 8 : 0);
  return packaged([0x14], path(at), Uint8Array.of(flags), ...body);
}

/** RegionSpace of an operation region. */
const REGION_SPACES = { systemMemory: 0, systemIo: 1, pciConfig: 2 } as const;

export const operationRegion = (
  at: string,
  space: keyof typeof REGION_SPACES,
  offset: Term,
  length: Term,
): Term => concat([EXTENDED, 0x80], path(at), [REGION_SPACES[space]], offset, length);

const ACCESS_TYPES = { any: 0, byte: 1, word: 2, dword: 3, qword: 4, buffer: 5 } as const;
const UPDATE_RULES = { preserve: 0, writeAsOnes: 1, writeAsZeros: 2 } as const;

/** A field unit: its name, or none for bits that are passed over, and its width in bits. */
export type FieldUnit = { readonly name?: string; readonly bits: number };

export type FieldOptions = {
  readonly access: keyof typeof ACCESS_TYPES;
  /** default `preserve` */
  readonly update?: keyof typeof UPDATE_RULES;
  /** under the global lock; default false */
  readonly lock?: boolean;
};

export function field(region: string, options: FieldOptions, ...units: readonly FieldUnit[]): Term {
  const flags =
    ACCESS_TYPES[options.access] |
    (options.lock === true ? 0x10 : 0) |
    (UPDATE_RULES[options.update ?? 'preserve'] << 5);
  const list = units.map(({ name: unit, bits }) => {
    const size = lengthSize(bits);
    if (size === 0) throw new RangeError(`an AML field unit of ${bits} bits is too wide`);
    return concat(unit === undefined ? [0x00] : segment(unit), encodeLength(bits, size));
  });
  return packaged([EXTENDED, 0x81], path(region), Uint8Array.of(flags), ...list);
}

// Statements (20.2.5.3)

export const ifThen = (condition: Term, ...body: readonly Term[]): Term =>
  packaged([0xa0], condition, ...body);
/** Belongs directly behind {@link ifThen}. */
export const elseThen = (...body: readonly Term[]): Term => packaged([0xa1], ...body);
export const ret = (value: Term): Term => concat([0xa4], value);
export const notify = (target: Term, value: Term): Term => concat([0x86], target, value);

// Expressions (20.2.5.4). Results go to `target`, nowhere by default.

/** Where a result is dropped. */
export const NOWHERE: Term = Uint8Array.of(0x00);

export const arg = (index: 0 | 1 | 2 | 3 | 4 | 5 | 6): Term => Uint8Array.of(0x68 + index);
export const local = (index: 0 | 1 | 2 | 3 | 4 | 5 | 6 | 7): Term => Uint8Array.of(0x60 + index);

export const store = (source: Term, target: Term): Term => concat([0x70], source, target);
/** A call of the method at `at`. */
export const call = (at: string, ...args: readonly Term[]): Term => concat(path(at), ...args);

type Binary = (left: Term, right: Term, target?: Term) => Term;
const binary =
  (opcode: number): Binary =>
  (left, right, target = NOWHERE) =>
    concat([opcode], left, right, target);

export const add = binary(0x72);
export const subtract = binary(0x74);
export const shiftLeft = binary(0x79);
export const shiftRight = binary(0x7a);
export const and = binary(0x7b);
export const or = binary(0x7d);
export const xor = binary(0x7f);

type Relation = (left: Term, right: Term) => Term;
const relation =
  (...opcode: readonly number[]): Relation =>
  (left, right) =>
    concat(opcode, left, right);

export const logicalAnd = relation(0x90);
export const logicalOr = relation(0x91);
export const logicalNot = (value: Term): Term => concat([0x92], value);
export const equal = relation(0x93);
export const greater = relation(0x94);
export const less = relation(0x95);
export const notEqual = relation(0x92, 0x93);

/** Names the bytes at `offset` of a buffer; creates a named object, so the method must be serialized. */
const createField =
  (opcode: number) =>
  (source: Term, offset: Term, unit: string): Term =>
    concat([opcode], source, offset, segment(unit));

export const createDWordField = createField(0x8a);
export const createQWordField = createField(0x8f);
