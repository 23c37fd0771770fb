import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LabClient } from './client.ts';
import type { Command, ExecOptions, ExecResult } from './commands.ts';
import { execDirect } from './direct.ts';
import { DEFAULT_MEM_MIB, Lab } from './lab.ts';
import { isListening, keptSocket } from './server.ts';

/** Where commands can boot guest kernels on a true KVM. */
export type GuestHost = {
  readonly kind: 'direct' | 'lab';
  /** a directory that this process and the commands can both write, under the same path */
  readonly shared: string;
  /** Runs a command, with this process's environment and working directory. */
  exec(command: Command, options?: ExecOptions): Promise<ExecResult>;
  close(): Promise<void>;
};

export type GuestHostOptions = {
  /** whether the KVM of this machine runs guest kernels; asked where TSVM_LAB is `auto` or not set */
  readonly canRunGuests: () => Promise<boolean>;
  /** memory in MiB that the commands and their guests need in the lab; more than the shared one has gets an own one */
  readonly mem?: number;
};

/** Set by the vitest set-up: the socket of the level 1 that all test files share. */
export const LAB_SOCKET = 'TSVM_LAB_SOCKET';

/**
 * Where guests run, by TSVM_LAB: `never` directly, `always` in the lab, `auto` directly where this machine can. The
 * lab is the one of the test run, else the one kept by `npm run lab -- --keep`, else a new one.
 */
export async function guestHost(options: GuestHostOptions): Promise<GuestHost> {
  const mode = process.env['TSVM_LAB'] ?? 'auto';
  switch (mode) {
    case 'never':
      return directHost();
    case 'always':
      return labHost(options.mem);
    case 'auto':
      return (await options.canRunGuests()) ? directHost() : labHost(options.mem);
    default:
      throw new Error(`TSVM_LAB is ${JSON.stringify(mode)}; it can be always, never or auto`);
  }
}

function directHost(): GuestHost {
  const shared = mkdtempSync(join(tmpdir(), 'tsvm-guest-'));
  return {
    kind: 'direct',
    shared,
    exec: execDirect,
    close: () => Promise.resolve(rmSync(shared, { recursive: true, force: true })),
  };
}

async function labHost(mem = DEFAULT_MEM_MIB): Promise<GuestHost> {
  const socket = mem > DEFAULT_MEM_MIB ? undefined : await sharedLabSocket();
  if (socket === undefined) {
    const lab = await Lab.start({ mem: Math.max(mem, DEFAULT_MEM_MIB) });
    return { kind: 'lab', shared: lab.shared, exec: lab.exec.bind(lab), close: () => lab.stop() };
  }
  const client = await LabClient.connect(socket);
  return {
    kind: 'lab',
    shared: client.shared,
    exec: client.exec.bind(client),
    close: () => Promise.resolve(client.close()),
  };
}

async function sharedLabSocket(): Promise<string | undefined> {
  const ofRun = process.env[LAB_SOCKET];
  if (ofRun !== undefined && ofRun !== '') return ofRun;
  return (await isListening(keptSocket())) ? keptSocket() : undefined;
}
