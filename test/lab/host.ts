import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { compressedDebian } from '../../images/debian/compressed.ts';
import { buildDebian } from '../../images/debian/system.ts';
import { LabClient } from './client.ts';
import type { Command, ExecOptions, ExecResult } from './commands.ts';
import { execDirect } from './direct.ts';
import { DEFAULT_MEM_MIB, Lab } from './lab.ts';
import { DEBIAN_DISK, SCRATCH_PATH, type DebianForm } from './scratch.ts';
import { isListening, keptSocket } from './server.ts';

/** Where commands can boot guest kernels on a true KVM. */
export type GuestHost = {
  readonly kind: 'direct' | 'lab';
  /** a directory that this process and the commands can both write, under the same path */
  readonly shared: string;
  /** a directory for commands, on a file system with holes and direct I/O; this process may not see it */
  readonly scratch: string;
  /**
   * Makes a copy of Debian's disk in {@link scratch} and returns its path. The copy is the caller's to remove.
   * @param form `compressed` is a qcow2 image; default `raw`
   */
  debianDisk(name: string, form?: DebianForm): Promise<string>;
  /** Runs a command, with this process's environment and working directory. */
  exec(command: Command, options?: ExecOptions): Promise<ExecResult>;
  close(): Promise<void>;
};

export type GuestHostOptions = {
  /** whether the KVM of this machine runs guest kernels; asked where TSVM_LAB is `auto` or not set */
  readonly canRunGuests: () => Promise<boolean>;
  /** memory in MiB that the commands and their guests need in the lab; more than the shared one has gets an own one */
  readonly mem?: number;
  /** whether a lab that is started for this is to have Debian's disk ready */
  readonly debian?: boolean;
};

const COPY_LIMIT_MS = 300_000;

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
      return labHost(options);
    case 'auto':
      return (await options.canRunGuests()) ? directHost() : labHost(options);
    default:
      throw new Error(`TSVM_LAB is ${JSON.stringify(mode)}; it can be always, never or auto`);
  }
}

function directHost(): GuestHost {
  const shared = mkdtempSync(join(tmpdir(), 'tsvm-guest-'));
  // Not in /tmp, which may be memory and knows no direct I/O then.
  mkdirSync(cacheRoot(), { recursive: true });
  const scratch = mkdtempSync(join(cacheRoot(), 'scratch-'));
  return {
    kind: 'direct',
    shared,
    scratch,
    debianDisk: async (name, form) => copyDisk(execDirect, await builtDisk(form), join(scratch, name)),
    exec: execDirect,
    close: () => {
      for (const folder of [shared, scratch]) rmSync(folder, { recursive: true, force: true });
      return Promise.resolve();
    },
  };
}

async function copyDisk(exec: GuestHost['exec'], from: string, to: string): Promise<string> {
  const copied = await exec(['cp', '--reflink=auto', '--sparse=always', from, to], {
    timeoutMs: COPY_LIMIT_MS,
  });
  if (copied.code !== 0) throw new Error(`copying ${from} to ${to} failed: ${copied.stderr}`);
  return to;
}

/** Debian's disk from the scratch disk, where it is there: through 9p the copy takes its time. */
async function copyInLab(exec: GuestHost['exec'], name: string, form: DebianForm = 'raw'): Promise<string> {
  const ready = join(SCRATCH_PATH, DEBIAN_DISK[form]);
  const there = (await exec(['test', '-e', ready])).code === 0;
  return copyDisk(exec, there ? ready : await builtDisk(form), join(SCRATCH_PATH, name));
}

async function builtDisk(form: DebianForm = 'raw'): Promise<string> {
  const system = await buildDebian();
  return form === 'raw' ? system.disk : compressedDebian(system);
}

async function labHost({ mem = DEFAULT_MEM_MIB, debian = false }: GuestHostOptions): Promise<GuestHost> {
  const socket = mem > DEFAULT_MEM_MIB ? undefined : await sharedLabSocket();
  const lab =
    socket === undefined
      ? await Lab.start({ mem: Math.max(mem, DEFAULT_MEM_MIB), debian })
      : await LabClient.connect(socket);
  const exec = lab.exec.bind(lab);
  return {
    kind: 'lab',
    shared: lab.shared,
    scratch: SCRATCH_PATH,
    debianDisk: (name, form) => copyInLab(exec, name, form),
    exec,
    close: async () => {
      if (lab instanceof Lab) await lab.stop();
      else lab.close();
    },
  };
}

async function sharedLabSocket(): Promise<string | undefined> {
  const ofRun = process.env[LAB_SOCKET];
  if (ofRun !== undefined && ofRun !== '') return ofRun;
  return (await isListening(keptSocket())) ? keptSocket() : undefined;
}
