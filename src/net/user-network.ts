/** User-mode networking: passt gives a guest the host's network without privileges. */
import { Keeper } from '../kvm/keeper.ts';
import type { NetBackend } from './backend.ts';
import { settlePorts } from './free-ports.ts';
import { formatEndpoint, type PortForward } from './forward.ts';
import { passtArguments } from './passt/arguments.ts';
import { hostNetwork } from './passt/host-network.ts';
import {
  describeEnd,
  launchKeptPasst,
  launchPasst,
  PASST_ENV,
  PASST_FD,
  PasstProcess,
  type PasstLauncher,
} from './passt/process.ts';
import { findPasst, type PasstProgram } from './passt/program.ts';
import { StreamBackend } from './stream.ts';

/** The largest packet of 64 KiB that is a whole number of words, with its Ethernet header. */
export const USER_MTU = 65520;

export type UserNetworkOptions = {
  /** for messages */
  readonly name: string;
  /** default none */
  readonly forwards?: readonly PortForward[];
  /** whether the guest may reach what listens on the host's loopback, at its gateway's address; default false */
  readonly hostAccess?: boolean;
  /** default {@link USER_MTU} */
  readonly mtu?: number;
  /** whether a keeper starts passt, since this process will not be allowed to; default false */
  readonly keeper?: boolean;
  readonly log: (line: string) => void;
};

export type UserNetwork = {
  readonly backend: NetBackend;
  /** with the ports of the host that were chosen */
  readonly forwards: readonly PortForward[];
};

/**
 * Starts passt, and again whenever it has ended, until the back end is closed.
 * @throws NetworkError where there is no passt, a port cannot be had, or passt does not start
 */
export async function openUserNetwork(options: UserNetworkOptions): Promise<UserNetwork> {
  const { name, log } = options;
  const program = await findPasst();
  const forwards = await settlePorts(options.forwards ?? []);
  for (const [i, forward] of forwards.entries()) {
    if (options.forwards?.[i]?.host === 0) log(`${name}: ${describeChoice(forward)}`);
  }
  const passt = new Passt(program, { ...options, forwards });
  const mtu = options.mtu ?? USER_MTU;
  const backend = await StreamBackend.open({
    name,
    mtu,
    log,
    connect: () => passt.start(),
    disconnected: () => passt.close(),
  });
  // Older ones connect to whatever address a guest names (Debian 12's does), and the host's own are not for it.
  backend.port.refuseLoopback(true);
  return { backend, forwards };
}

function describeChoice({ protocol, address, host, guest }: PortForward): string {
  return `${protocol.toUpperCase()} port ${formatEndpoint(address, host)} leads to port ${guest} of the guest`;
}

/** Runs of passt, one at a time. */
class Passt {
  readonly #program: PasstProgram;
  readonly #options: UserNetworkOptions;
  #running: PasstProcess | undefined;
  /** has the command line of the first start */
  #keeper: Keeper | undefined;
  #notes: readonly string[] = [];
  /** why it did not start the last time; undefined before it has ever */
  #failure: string | undefined;

  constructor(program: PasstProgram, options: UserNetworkOptions) {
    this.#program = program;
    this.#options = options;
  }

  /** @returns its socket */
  async start(): Promise<number> {
    await this.end();
    try {
      const { passt, socket } = await PasstProcess.start(this.#launcher());
      this.#running = passt;
      this.#failure = '';
      void passt.ended.then((end) => {
        if (this.#running === passt) this.#say(`passt ended: ${describeEnd(end)}`);
      });
      return socket;
    } catch (error) {
      const failure = error instanceof Error ? error.message : String(error);
      // What the first start throws is told by those who wait for it.
      if (this.#failure !== undefined && failure !== this.#failure) {
        this.#failure = failure;
        this.#say(failure);
      }
      throw error;
    }
  }

  /** Ends what runs; its socket is closed already. */
  async end(): Promise<void> {
    const running = this.#running;
    this.#running = undefined;
    await running?.end();
  }

  /** As {@link end}, and nothing is started again. */
  async close(): Promise<void> {
    await this.end();
    this.#keeper?.close();
  }

  #launcher(): PasstLauncher {
    if (this.#keeper !== undefined) return launchKeptPasst(this.#keeper);
    const { forwards = [], hostAccess = false, mtu = USER_MTU, keeper = false } = this.#options;
    // The host's network may be another one by now.
    const { args, notes } = passtArguments(
      this.#program,
      hostNetwork(),
      { forwards, hostAccess, mtu },
      PASST_FD,
    );
    for (const note of notes) if (!this.#notes.includes(note)) this.#say(note);
    this.#notes = notes;
    if (!keeper) return launchPasst(this.#program.path, args);
    this.#keeper = new Keeper([this.#program.path, ...args], PASST_ENV);
    return launchKeptPasst(this.#keeper);
  }

  #say(line: string): void {
    this.#options.log(`${this.#options.name}: ${line}`);
  }
}
