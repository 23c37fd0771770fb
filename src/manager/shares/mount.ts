import type { GuestPort, RunningVm, Share, VmOptions } from '../../vmm/types.ts';
import { AgentClient } from '../agent/client.ts';
import { AGENT_PORT } from '../agent/port.ts';
import { shellQuote } from '../shell-quote.ts';

/** How often the port is looked at. */
const LOOK_MS = 250;
/** An agent that has opened its port answers soon. */
const READY_LIMIT_MS = 30_000;
const MOUNT_LIMIT_MS = 60_000;
const DEFAULT_PATIENCE_MS = 180_000;

export type MountOptions = {
  /** takes one line for each folder that is not mounted, with the command to type */
  readonly log: (line: string) => void;
  /** the one who talks to the guest's agent; default: the port is opened for this, and let go of again */
  readonly agent?: AgentClient;
  /** milliseconds after which a guest whose agent has not come up is told of; default 180 000 */
  readonly patience?: number;
};

/** Arguments: tag, path, options. */
const SCRIPT = `
findmnt -n -t virtiofs -S "$1" -M "$2" > /dev/null 2>&1 && exit 0
mkdir -p -- "$2" && exec mount -t virtiofs -o "$3" -- "$1" "$2"
`;

/** What one types in the guest. */
function command({ tag, guest = '/mnt', readOnly }: Share): string {
  const path = /^[\w./-]+$/.test(guest) ? guest : shellQuote(guest);
  return `mkdir -p ${path} && mount -t virtiofs ${readOnly === true ? '-o ro ' : ''}${tag} ${path}`;
}

/** The options with the agent's port, where folders are to be mounted and nobody has asked for it. */
export function withAgentPort(options: VmOptions): VmOptions {
  const { shares = [], ports = [] } = options;
  if (shares.every(({ guest }) => guest === undefined)) return options;
  if (ports.some(({ name }) => name === AGENT_PORT)) return options;
  return { ...options, ports: [...ports, { name: AGENT_PORT }] };
}

/**
 * Mounts a VM's shared folders in its guest, each time that the guest's agent comes up: after the boot, and after each
 * reboot. Needs the agent's port among those of the VM. Returns what ends it; it ends with the VM as well.
 */
export function mountShares(vm: RunningVm, options: MountOptions): () => void {
  const shares = vm.shares.filter(({ guest }) => guest !== undefined);
  const port = vm.port(AGENT_PORT);
  if (shares.length === 0) return () => undefined;
  if (port === undefined) {
    for (const share of shares) tell(options, share, `there is no port ${AGENT_PORT}`);
    return () => undefined;
  }
  const mounter = new Mounter(port, shares, options);
  void vm.exited.then(() => mounter.stop());
  return () => mounter.stop();
}

function tell({ log }: MountOptions, share: Share, reason: string): void {
  log(`${share.path} is not mounted in the guest: ${reason}; in the guest: ${command(share)}`);
}

class Mounter {
  readonly #port: GuestPort;
  readonly #shares: readonly Share[];
  readonly #options: MountOptions;
  readonly #looking: NodeJS.Timeout;
  readonly #patience: NodeJS.Timeout;
  readonly #stopped = new AbortController();
  /** the agent of now was asked */
  #served = false;
  #busy = false;

  constructor(port: GuestPort, shares: readonly Share[], options: MountOptions) {
    this.#port = port;
    this.#shares = shares;
    this.#options = options;
    const patience = options.patience ?? DEFAULT_PATIENCE_MS;
    this.#looking = setInterval(() => this.#look(), LOOK_MS).unref();
    this.#patience = setTimeout(() => {
      const reason = `no qemu-guest-agent there within ${Math.round(patience / 1000)} s (it is still waited for)`;
      for (const share of shares) tell(options, share, reason);
    }, patience).unref();
  }

  stop(): void {
    clearInterval(this.#looking);
    clearTimeout(this.#patience);
    this.#stopped.abort();
  }

  #look(): void {
    if (!this.#port.guestOpen) {
      this.#served = false;
      return;
    }
    if (this.#served || this.#busy) return;
    // Somebody else has it.
    if (this.#options.agent === undefined && this.#port.isOpen) return;
    this.#busy = true;
    this.#mount()
      .catch((error: unknown) => this.#failed(error instanceof Error ? error.message : String(error)))
      .finally(() => (this.#busy = false));
  }

  async #mount(): Promise<void> {
    this.#served = true;
    clearTimeout(this.#patience);
    if (this.#options.agent !== undefined) return this.#mountBy(this.#options.agent);
    await using agent = new AgentClient(this.#port.open());
    await this.#mountBy(agent);
  }

  async #mountBy(agent: AgentClient): Promise<void> {
    const { signal } = this.#stopped;
    await agent.waitUntilReady({ timeout: READY_LIMIT_MS, signal });
    for (const share of this.#shares) {
      const mode = share.readOnly === true ? 'ro' : 'rw';
      const args = ['-c', SCRIPT, 'sh', share.tag, share.guest!, `${mode},nodev`];
      const result = await agent.exec('/bin/sh', args, { timeout: MOUNT_LIMIT_MS, signal });
      if (result.exitCode === 0) continue;
      const said = result.stderr.toString().trim().replaceAll(/\s+/g, ' ').slice(0, 300);
      tell(this.#options, share, said === '' ? 'mount failed' : said);
    }
  }

  #failed(reason: string): void {
    if (this.#stopped.signal.aborted) return;
    for (const share of this.#shares) tell(this.#options, share, reason);
  }
}
