/** The DNS server of a network, and the answers to its multicast cousin LLMNR (RFC 4795). */
import {
  DNS_TYPE,
  RCODE,
  readQuestion,
  writeAnswer,
  writeFormatError,
  type DnsAnswer,
  type DnsQuestion,
} from './dns-message.ts';
import type { Subnet } from './leases.ts';
import type { Names } from './names.ts';

export type NameServerOptions = {
  readonly names: Names;
  readonly subnet: Subnet;
  /** such as `lan.internal` */
  readonly domain: string;
};

/** Who may ask for names of the world, and how: resolves to a whole answer, or undefined where none came. */
export type AskWorld = (port: number, query: Buffer) => Promise<Buffer | undefined> | undefined;

export class NameServer {
  readonly #options: NameServerOptions;
  readonly #askWorld: AskWorld;

  /** @param askWorld returns undefined at once where the port may not ask, or asks too much */
  constructor(options: NameServerOptions, askWorld: AskWorld) {
    this.#options = options;
    this.#askWorld = askWorld;
  }

  /** The answer to a query; undefined where there is none to give. */
  answer(data: Buffer, port: number): Buffer | Promise<Buffer | undefined> | undefined {
    const question = readQuestion(data);
    if (question === undefined) return undefined;
    if (question.name === undefined) return writeFormatError(question.id, question.recursion);
    const recursion = false;
    if (question.opcode !== 0)
      return writeAnswer(question, { rcode: RCODE.notImplemented, records: [], recursion });
    const own = this.#resolve(question);
    if (own !== undefined) return writeAnswer(question, own);
    // The memory of the frame that it came in is another's soon.
    const refused = writeAnswer(question, { rcode: RCODE.refused, records: [], recursion });
    const failed = writeAnswer(question, { rcode: RCODE.failure, records: [], recursion: true }, false);
    return this.#askWorld(port, Buffer.from(data))?.then((reply) => reply ?? failed) ?? refused;
  }

  /**
   * The answer to a query of LLMNR: only for names that we know, and not to the station that has the name, which asks
   * in order to find out whether another one has it.
   */
  answerMulticast(data: Buffer, port: number): Buffer | undefined {
    const question = readQuestion(data);
    if (question?.name === undefined || question.opcode !== 0 || !question.inClass) return undefined;
    const owner = this.#options.names.find(question.name);
    if (owner?.address === undefined || owner.port === port) return undefined;
    const own = this.#resolve(question);
    return own?.rcode === RCODE.ok ? writeAnswer({ ...question, edns: false }, own, false) : undefined;
  }

  /** undefined where the name is none of this network */
  #resolve(question: DnsQuestion): DnsAnswer | undefined {
    const { domain, names } = this.#options;
    const answer = (rcode: number, records: DnsAnswer['records'] = []): DnsAnswer => ({
      rcode,
      records,
      recursion: false,
    });
    const wants = (type: number): boolean =>
      question.inClass && (question.type === type || question.type === DNS_TYPE.any);
    const { name } = question;
    if (name === domain) return answer(RCODE.ok);
    const reverse = this.#reverse(name);
    if (reverse !== undefined) {
      if (reverse === '') return answer(RCODE.noName);
      const record = { type: DNS_TYPE.ptr, name: `${reverse}.${domain}` } as const;
      return answer(RCODE.ok, wants(DNS_TYPE.ptr) ? [record] : []);
    }
    const below = name.endsWith(`.${domain}`);
    const label = below ? name.slice(0, -domain.length - 1) : name;
    // A name of one label is of no other place either.
    if (!below && (name.includes('.') || name === '')) return undefined;
    const found = names.find(label);
    if (found === undefined) return answer(RCODE.noName);
    const record = found.address === undefined ? [] : [{ type: DNS_TYPE.a, address: found.address } as const];
    return answer(RCODE.ok, wants(DNS_TYPE.a) ? record : []);
  }

  /** The label that belongs to a name such as `4.3.2.10.in-addr.arpa`; '' for none, undefined for another network. */
  #reverse(name: string): string | undefined {
    const bytes = /^(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.in-addr\.arpa$/
      .exec(name)
      ?.slice(1)
      .map(Number);
    if (bytes === undefined || bytes.some((byte) => byte > 255)) return undefined;
    const address = bytes.reduceRight((sum, byte) => sum * 256 + byte, 0);
    const { base, mask } = this.#options.subnet;
    if ((address & mask) >>> 0 !== base) return undefined;
    return this.#options.names.nameAt(address) ?? '';
  }
}
