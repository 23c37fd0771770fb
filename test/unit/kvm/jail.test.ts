/** The jail, tried out by a process in it. */
import { execa } from 'execa';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { constants, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { native } from '../../../src/kvm/native.ts';

const SUPPORT = join(import.meta.dirname, '../../support/jail');
const { ENOSYS, EPERM } = constants.errno;

const abi = native().jail.landlockAbi();
if (abi < 0) process.stderr.write(`skipped: the jail, as this kernel has no Landlock (errno ${-abi})\n`);

describe.skipIf(abi < 0)('a process in the jail', () => {
  let base: string;
  let told: Record<string, unknown>;
  let calls: Map<string, number>;

  beforeAll(async () => {
    base = mkdtempSync(join(tmpdir(), 'tsvm-jail-'));
    const folder = join(base, 'own');
    const secret = join(base, 'secret');
    const library = join(base, 'calls.so');
    mkdirSync(folder);
    writeFileSync(secret, 'secret');
    await execa('cc', ['-shared', '-fPIC', '-pthread', '-o', library, join(SUPPORT, 'calls.c')]);
    const { stdout } = await execa(
      process.execPath,
      ['--import', 'tsx', join(SUPPORT, 'prisoner.ts'), folder, secret, library],
      { stdin: 'ignore' },
    );
    const [json = '', ...lines] = stdout.split('\n');
    told = JSON.parse(json) as Record<string, unknown>;
    calls = new Map(
      lines.map((line) => {
        const at = line.lastIndexOf(' ');
        return [line.slice(0, at), Number(line.slice(at + 1))];
      }),
    );
  }, 60_000);
  afterAll(() => rmSync(base, { recursive: true, force: true }));

  test('opens none of the files that it was not left, in any thread', () => {
    const refused = Object.entries(told).filter(([name]) =>
      /^reads (the|it)|^lists|^writes beside/.test(name),
    );
    expect(refused).toHaveLength(12);
    for (const [name, result] of refused) expect([name, result]).toEqual([name, 'EACCES']);
  });

  test('runs nothing and has no network', () => {
    expect(told['makes an executable run']).toBe('EPERM');
    expect(told['listens on TCP']).toBe('EPERM');
  });

  test('has its own files, unix sockets, threads and the rings that were made before', () => {
    expect(told).toMatchObject({
      abi,
      files: 512,
      'writes in its folder': 'done',
      'listens and connects on a unix socket': 'done',
      'reads with a worker of its own': 'done',
      'second ring': 'threads',
      status: { NoNewPrivs: 1, Seccomp: 2 },
    });
    expect(['io_uring', 'threads']).toContain(told['ring']);
  });

  test.each([
    ...['ptrace', 'process_vm_readv', 'execve', 'execveat', 'execve by a copy of itself', 'vfork'],
    ...['clone with a namespace'],
    ...['unshare', 'setns', 'mount', 'chroot', 'bpf', 'perf_event_open', 'keyctl', 'userfaultfd'],
    ...['kexec_load', 'init_module', 'open_by_handle_at', 'setuid', 'socket AF_INET', 'socket AF_NETLINK'],
    ...['socket AF_VSOCK', 'kill of another', 'setting a limit', 'TIOCSTI'],
  ])('may not: %s', (name) => {
    expect(calls.get(name)).toBe(EPERM);
  });

  test.each(['clone3', 'io_uring_setup', 'io_uring_register', 'a call of the future'])(
    'is told that the kernel has no such call: %s',
    (name) => {
      expect(calls.get(name)).toBe(ENOSYS);
    },
  );

  test.each(['a copy of itself', 'kill of itself', 'getrlimit', 'socketpair AF_UNIX', 'pipe', 'a thread'])(
    'may: %s',
    (name) => {
      expect(calls.get(name)).toBe(0);
    },
  );
});
