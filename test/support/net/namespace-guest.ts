import { execFile, execFileSync, spawn, type ChildProcess } from 'node:child_process';
import { promisify } from 'node:util';
import { FramePort, OFFLOAD } from '../../../src/kvm/frame-port.ts';
import { openTap, setTapOffloads } from '../../../src/kvm/tap.ts';
import type { NetBackend } from '../../../src/net/backend.ts';

const run = promisify(execFile);
const BUFFERS = 64;
const BUFFER_SIZE = 80_000;
const ALL = OFFLOAD.checksum | OFFLOAD.tso4 | OFFLOAD.tso6;

let count = 0;

/** Whether this user may make network namespaces and taps. */
export function canMakeNamespaces(): boolean {
  try {
    execFileSync('ip', ['netns', 'add', `tsvm-probe-${process.pid}`], { stdio: 'ignore' });
    execFileSync('ip', ['netns', 'del', `tsvm-probe-${process.pid}`], { stdio: 'ignore' });
    return process.getuid!() === 0;
  } catch {
    return false;
  }
}

/**
 * The network stack of a guest without its machine: a network namespace whose only card is a tap, with its frames
 * carried to and from a back end as a network device does it, offload headers and all.
 */
export class NamespaceGuest {
  readonly name = `tsvm-${process.pid}-${++count}`;
  readonly #backend: NetBackend;
  readonly #tap = new FramePort();
  readonly #children: ChildProcess[] = [];

  /** @param addresses such as `10.0.0.2/24`; with a gateway where there is a world */
  static async open(
    backend: NetBackend,
    card: { readonly mac: string; readonly mtu: number; readonly addresses: readonly string[] },
    gateways: readonly string[] = [],
  ): Promise<NamespaceGuest> {
    const guest = new NamespaceGuest(backend);
    const { fd, name: tap } = openTap(`t${process.pid % 100_000}-${count}`, false);
    setTapOffloads(fd, ALL);
    await run('ip', ['netns', 'add', guest.name]);
    await run('ip', ['link', 'set', tap, 'netns', guest.name]);
    await guest.sh(`ip link set lo up; ip link set ${tap} name eth0 address ${card.mac} mtu ${card.mtu}`);
    for (const address of card.addresses) {
      await guest.sh(`ip addr add ${address} dev eth0${address.includes(':') ? ' nodad' : ''}`);
    }
    await guest.sh('ip link set eth0 up');
    for (const gateway of gateways) {
      await guest.sh(`ip ${gateway.includes(':') ? '-6 ' : ''}route add default via ${gateway} dev eth0`);
    }
    guest.#connect(fd);
    return guest;
  }

  private constructor(backend: NetBackend) {
    this.#backend = backend;
  }

  /** Runs a shell line there; returns what it says. @throws Error where it fails */
  async sh(line: string): Promise<string> {
    return (await run('ip', ['netns', 'exec', this.name, 'sh', '-c', line], { timeout: 60_000 })).stdout;
  }

  /** Starts a program there, until the guest is closed. */
  start(...command: readonly string[]): void {
    this.#children.push(spawn('ip', ['netns', 'exec', this.name, ...command], { stdio: 'ignore' }));
  }

  async close(): Promise<void> {
    for (const child of this.#children) child.kill('SIGKILL');
    this.#tap.shut();
    await run('ip', ['netns', 'del', this.name]);
  }

  #connect(fd: number): void {
    const port = this.#backend.ports[0]!;
    this.#tap.open(fd, 'tap', true);
    for (const each of [this.#tap, port]) {
      each.configure({ header: true, hostOffloads: ALL, guestOffloads: ALL });
    }
    const out = new Carrier(this.#tap, port);
    const back = new Carrier(port, this.#tap);
    this.#tap.user = { readable: () => out.move(), writable: () => back.drain() };
    port.user = { readable: () => back.move(), writable: () => out.drain() };
    this.#tap.listen(true);
    port.listen(true);
  }
}

/** Takes frames of one port to the other; those that come while it is full wait. */
class Carrier {
  readonly #from: FramePort;
  readonly #to: FramePort;
  readonly #numbers: readonly [number, number];

  constructor(from: FramePort, to: FramePort) {
    this.#from = from;
    this.#to = to;
    const memory = new Uint8Array(BUFFERS * BUFFER_SIZE);
    this.#numbers = [from.register(memory), to.register(memory)];
  }

  move(): void {
    const { rx } = this.#from;
    const { tx } = this.#to;
    if (tx.count > 0) return;
    for (let i = 0; i < BUFFERS; i++) {
      rx.add(this.#numbers[0], i * BUFFER_SIZE, BUFFER_SIZE);
      rx.end(i);
    }
    const got = this.#from.receive();
    for (let i = 0; i < got; i++) {
      tx.add(this.#numbers[1], rx.cookie(i) * BUFFER_SIZE, rx.written(i));
      tx.end();
    }
    rx.clear();
    this.drain();
  }

  drain(): void {
    const { tx } = this.#to;
    tx.shift(this.#to.send());
    this.#from.listen(tx.count === 0);
  }
}
