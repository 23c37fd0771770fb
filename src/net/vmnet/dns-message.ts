/** DNS questions and answers as they go over the wire (RFC 1035, 4; RFC 6891). */
import type { Address } from './packet.ts';

export const DNS_PORT = 53;

export const DNS_TYPE = { a: 1, ptr: 12, aaaa: 28, opt: 41, any: 255 } as const;

export const RCODE = { ok: 0, format: 1, failure: 2, noName: 3, notImplemented: 4, refused: 5 } as const;

const HEADER = 12;
const IN = 1;
const ANY_CLASS = 255;
const FLAG = {
  response: 0x8000,
  authoritative: 0x0400,
  truncated: 0x0200,
  recursion: 0x0100,
  available: 0x0080,
};
const OPCODE = 0x7800;
/** What a UDP answer may have everywhere (RFC 9715). */
const EDNS_SIZE = 1232;
/** Names come and go with their VMs. */
const TTL_S = 5;

export type DnsQuestion = {
  readonly id: number;
  /** RD, which goes back in the answer */
  readonly recursion: boolean;
  readonly opcode: number;
  /** in lower case, without the last dot; '' for the root */
  readonly name: string;
  readonly type: number;
  readonly inClass: boolean;
  /** the asker speaks EDNS */
  readonly edns: boolean;
  /** the question as it came, for the answer: case counts for some */
  readonly bytes: Buffer;
};

/** Reads what may be any bytes: undefined where not even an error can be answered; `name` is undefined where FORMERR. */
export function readQuestion(
  data: Buffer,
): DnsQuestion | { readonly id: number; readonly recursion: boolean; readonly name: undefined } | undefined {
  if (data.length < HEADER) return undefined;
  const id = data.readUInt16BE(0);
  const flags = data.readUInt16BE(2);
  if ((flags & FLAG.response) !== 0) return undefined;
  const recursion = (flags & FLAG.recursion) !== 0;
  const malformed = { id, recursion, name: undefined };
  if (data.readUInt16BE(4) !== 1) return malformed;
  const name = readName(data, HEADER);
  if (name === undefined || name.end + 4 > data.length) return malformed;
  const { end } = name;
  const qclass = data.readUInt16BE(end + 2);
  return {
    id,
    recursion,
    opcode: flags & OPCODE,
    name: name.text,
    type: data.readUInt16BE(end),
    inClass: qclass === IN || qclass === ANY_CLASS,
    edns: hasEdns(data, end + 4),
    bytes: data.subarray(HEADER, end + 4),
  };
}

/** A name without pointers: a question is the first thing in a message, so there is nothing to point to. */
function readName(data: Buffer, from: number): { readonly text: string; readonly end: number } | undefined {
  const labels: string[] = [];
  let at = from;
  for (;;) {
    const length = data[at];
    // 63 bytes in a label and 255 in a name (RFC 1035, 2.3.4); more are pointers, or reserved
    if (
      length === undefined ||
      length > 63 ||
      at + 1 + length > data.length ||
      at + 1 + length - from > 255
    ) {
      return undefined;
    }
    if (length === 0) return { text: labels.join('.'), end: at + 1 };
    const label = data.toString('latin1', at + 1, at + 1 + length);
    // A dot within a label is none between them.
    labels.push(label.replaceAll('.', '\\.').toLowerCase());
    at += 1 + length;
  }
}

/** An OPT record, where it is the first after the question, as of all who ask. */
function hasEdns(data: Buffer, at: number): boolean {
  if (data.readUInt32BE(6) !== 0 || data.readUInt16BE(10) === 0 || at + 11 > data.length) return false;
  return data[at] === 0 && data.readUInt16BE(at + 1) === DNS_TYPE.opt;
}

/** A name in labels. It must be one: labels of 1 to 63 bytes, 253 in all. */
export function encodeName(name: string): Buffer {
  const labels = name === '' ? [] : name.split('.');
  return Buffer.concat([
    ...labels.flatMap((label) => [Buffer.of(label.length), Buffer.from(label, 'latin1')]),
    Buffer.of(0),
  ]);
}

export type DnsRecord =
  | { readonly type: typeof DNS_TYPE.a; readonly address: Address }
  | { readonly type: typeof DNS_TYPE.ptr; readonly name: string };

export type DnsAnswer = {
  readonly rcode: number;
  readonly records: readonly DnsRecord[];
  /** whether the server would ask others on the asker's behalf */
  readonly recursion: boolean;
};

/** @param authoritative AA, which means another thing in LLMNR */
export function writeAnswer(question: DnsQuestion, answer: DnsAnswer, authoritative = true): Buffer {
  const records = answer.records.map(encodeRecord);
  const edns = question.edns ? [ednsRecord()] : [];
  const flags =
    FLAG.response |
    (authoritative && answer.rcode !== RCODE.refused ? FLAG.authoritative : 0) |
    (question.recursion ? FLAG.recursion : 0) |
    (answer.recursion ? FLAG.available : 0) |
    question.opcode |
    answer.rcode;
  return Buffer.concat([
    header(question.id, flags, 1, records.length, edns.length),
    question.bytes,
    ...records,
    ...edns,
  ]);
}

/** FORMERR */
export function writeFormatError(id: number, recursion: boolean): Buffer {
  return header(id, FLAG.response | (recursion ? FLAG.recursion : 0) | RCODE.format, 0, 0, 0);
}

function header(id: number, flags: number, questions: number, answers: number, additional: number): Buffer {
  const bytes = Buffer.alloc(HEADER);
  for (const [i, word] of [id, flags, questions, answers, 0, additional].entries())
    bytes.writeUInt16BE(word, 2 * i);
  return bytes;
}

function encodeRecord(record: DnsRecord): Buffer {
  let data: Buffer;
  if (record.type === DNS_TYPE.a) {
    data = Buffer.alloc(4);
    data.writeUInt32BE(record.address);
  } else {
    data = encodeName(record.name);
  }
  const bytes = Buffer.alloc(12);
  // a pointer to the question's name
  bytes.writeUInt16BE(0xc000 | HEADER, 0);
  bytes.writeUInt16BE(record.type, 2);
  bytes.writeUInt16BE(IN, 4);
  bytes.writeUInt32BE(TTL_S, 6);
  bytes.writeUInt16BE(data.length, 10);
  return Buffer.concat([bytes, data]);
}

function ednsRecord(): Buffer {
  const bytes = Buffer.alloc(11);
  bytes.writeUInt16BE(DNS_TYPE.opt, 1);
  bytes.writeUInt16BE(EDNS_SIZE, 3);
  return bytes;
}
