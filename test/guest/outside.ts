import { join } from 'node:path';
import { insertModules } from '../lab/modules.ts';
import type { ExecResult } from '../lab/commands.ts';
import type { GuestHost } from '../lab/host.ts';

const PROGRAMS = join(import.meta.dirname, 'programs');
const INSIDE = 'tsvm-inside';
const OUTSIDE = 'tsvm-outside';
/** an unprivileged user: what is shown needs no rights but those to /dev/kvm */
const USER = 1000;

export const OUTSIDE_IP4 = '192.0.2.1';
export const OUTSIDE_IP6 = '2001:db8:1::1';
export const INSIDE_IP4 = '192.0.2.2';
export const INSIDE_IP6 = '2001:db8:1::2';
export const OUTSIDE_NAME = 'outside.example';
export const OUTSIDE_PORT = 7000;

/** As a user without rights, in the network namespace `inside`. */
export const INSIDE_COMMAND = [
  ...['ip', 'netns', 'exec', INSIDE],
  ...['setpriv', `--reuid=${USER}`, `--regid=${USER}`, '--clear-groups'],
  ...['env', '-u', 'XDG_RUNTIME_DIR', 'HOME=/nonexistent'],
];

/** As that user, where level 1 itself is. */
export const USER_COMMAND = INSIDE_COMMAND.slice(4);

/** Two network namespaces: `inside` has a default route to `outside`, where servers for names and load are. */
export class Outside {
  readonly #host: GuestHost;
  readonly #servers: Promise<ExecResult>[] = [];

  static async make(host: GuestHost): Promise<Outside> {
    await insertModules(host, ['veth']);
    const outside = new Outside(host);
    await outside.#remove();
    await outside.#say(`
      set -e
      export PATH=$PATH:/usr/sbin:/sbin
      ip netns add ${INSIDE}
      ip netns add ${OUTSIDE}
      ip link add up0 netns ${INSIDE} type veth peer name out0 netns ${OUTSIDE}
      mkdir -p /etc/netns/${INSIDE}
      echo nameserver ${OUTSIDE_IP4} > /etc/netns/${INSIDE}/resolv.conf
      inside() { ip netns exec ${INSIDE} "$@"; }
      outside() { ip netns exec ${OUTSIDE} "$@"; }
      inside ip link set lo up; outside ip link set lo up
      inside ip addr add ${INSIDE_IP4}/24 dev up0; inside ip -6 addr add ${INSIDE_IP6}/64 dev up0 nodad
      outside ip addr add ${OUTSIDE_IP4}/24 dev out0; outside ip -6 addr add ${OUTSIDE_IP6}/64 dev out0 nodad
      inside ip link set up0 up; outside ip link set out0 up
      inside ip route add default via ${OUTSIDE_IP4}; inside ip -6 route add default via ${OUTSIDE_IP6}
    `);
    await outside.#serve('net-load.mjs', ['serve', '::', `${OUTSIDE_PORT}`]);
    const [ip4, ip6] = ['c0000201', '20010db8000100000000000000000001'];
    await outside.#serve('name-server.mjs', [OUTSIDE_IP4, OUTSIDE_IP6, '--', OUTSIDE_NAME, ip4, ip6]);
    return outside;
  }

  private constructor(host: GuestHost) {
    this.#host = host;
  }

  /** Runs net-load.mjs inside; returns whether the load went well. */
  async load(args: readonly string[], timeoutMs: number): Promise<string> {
    const command = [...INSIDE_COMMAND, process.execPath, join(PROGRAMS, 'net-load.mjs'), ...args];
    const { stdout, stderr } = await this.#host.exec(command, { timeoutMs });
    return `${stdout}${stderr}`.trim();
  }

  /** Runs a shell line inside, and returns what it says. */
  async inside(line: string): Promise<string> {
    return (await this.#host.exec([...INSIDE_COMMAND, 'sh', '-c', line])).stdout.trim();
  }

  async close(): Promise<void> {
    await this.#remove();
    await Promise.all(this.#servers);
  }

  async #serve(program: string, args: readonly string[]): Promise<void> {
    let ready: () => void = () => undefined;
    const serving = new Promise<void>((resolve) => (ready = resolve));
    const command = ['ip', 'netns', 'exec', OUTSIDE, process.execPath, join(PROGRAMS, program), ...args];
    const ended = this.#host.exec(command, {
      timeoutMs: Infinity,
      onOutput: (data) => {
        if (data.toString().includes('serving')) ready();
      },
    });
    this.#servers.push(ended);
    const failed = ended.then(({ stderr }) => {
      throw new Error(`${program} has ended: ${stderr}`);
    });
    failed.catch(() => undefined);
    await Promise.race([serving, failed]);
  }

  /** With all that runs there. */
  async #remove(): Promise<void> {
    await this.#host.exec(`
      export PATH=$PATH:/usr/sbin:/sbin
      for name in ${INSIDE} ${OUTSIDE}; do
        ip netns pids $name 2>/dev/null | xargs -r kill -9
        ip netns del $name 2>/dev/null
      done
      rm -rf /etc/netns/${INSIDE}; true
    `);
  }

  async #say(script: string): Promise<void> {
    const { code, stderr } = await this.#host.exec(script);
    if (code !== 0) throw new Error(`the outside could not be made: ${stderr}`);
  }
}
