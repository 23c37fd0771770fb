import { execa } from 'execa';
import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { LabClient } from '../lab/client.ts';
import { LabError, type Command, type ExecOptions, type ExecResult } from '../lab/commands.ts';
import { execDirect } from '../lab/direct.ts';
import type { Lab } from '../lab/lab.ts';
import { insertModules } from '../lab/modules.ts';
import { fetchedQemu } from '../lab/qemu.ts';
import { LabServer } from '../lab/server.ts';

const scratch = mkdtempSync(join(tmpdir(), 'tsvm-lab-test-'));
const socket = join(scratch, 'lab.sock');
let server: LabServer;
let lab: Lab;
let client: LabClient;

beforeAll(async () => {
  server = await LabServer.listen(socket);
  client = await LabClient.connect(socket);
  lab = await server.lab();
});

afterAll(async () => {
  await server.close();
  rmSync(scratch, { recursive: true, force: true });
});

type Exec = (command: Command, options?: ExecOptions) => Promise<ExecResult>;

/** Tests and benchmarks take one for the other, so they have to do the same. */
describe.each<[string, () => Exec]>([
  ['in level 1', () => lab.exec.bind(lab)],
  ['in the level 1 of another process', () => client.exec.bind(client)],
  ['on this machine', () => execDirect],
])('exec %s', (_, exec) => {
  it('gives standard output, standard error and the exit status', async () => {
    expect(await exec()('echo out; echo err >&2; exit 7')).toEqual({
      ...{ code: 7, stdout: 'out\n', stderr: 'err\n', timedOut: false },
    });
  });

  it('gives 128 and the number of the signal that ended a command', async () => {
    expect(await exec()('kill -TERM $$')).toMatchObject({ code: 128 + 15, timedOut: false });
  });

  it('passes arguments as they are', async () => {
    const words = ['a b', '', '$HOME', "it's", 'ü\n'];
    const { stdout } = await exec()(['printf', '[%s]', ...words]);
    expect(stdout).toBe(words.map((word) => `[${word}]`).join(''));
  });

  it('runs in the working directory and with the environment it is given', async () => {
    const { stdout } = await exec()('pwd; echo $TSVM_TEST', {
      cwd: '/usr/share',
      env: { TSVM_TEST: 'value' },
    });
    expect(stdout).toBe('/usr/share\nvalue\n');
  });

  it('rejects where the program is not there', async () => {
    await expect(exec()(['/no/such/program'])).rejects.toThrow(/cannot run \/no\/such\/program/);
  });

  it('rejects where the working directory is not there', async () => {
    await expect(exec()('true', { cwd: '/no/such/dir' })).rejects.toThrow(/no directory \/no\/such\/dir/);
  });

  it('ends standard input where none is given', async () => {
    expect(await exec()('cat', { timeoutMs: 20_000 })).toMatchObject({
      code: 0,
      stdout: '',
      timedOut: false,
    });
  });

  it('passes more standard input and output than fits in any buffer, unchanged', async () => {
    const bytes = Array.from({ length: 400_000 }, (_value, i) => `${i}\n`).join('');
    const { stdout } = await exec()('cat', { stdin: bytes });
    expect(stdout === bytes).toBe(true);
  });

  it('does not mind standard input that nobody reads', async () => {
    expect(await exec()('exit 3', { stdin: 'x'.repeat(3_000_000) })).toMatchObject({ code: 3 });
  });

  it('gives output while the command still runs', async () => {
    const file = join(lab.shared, 'go-on');
    rmSync(file, { force: true });
    const { code } = await exec()(`echo ready; until [ -e '${file}' ]; do sleep 0.1; done`, {
      onOutput: (data) => {
        if (data.includes('ready')) writeFileSync(file, '');
      },
    });
    expect(code).toBe(0);
  });

  it('runs several commands at once', async () => {
    // Each waits for a file that the other makes.
    const [a, b] = [join(lab.shared, 'a'), join(lab.shared, 'b')];
    for (const file of [a, b]) rmSync(file, { force: true });
    const meet = (mine: string, other: string) =>
      `: > '${mine}'; until [ -e '${other}' ]; do sleep 0.1; done; echo met`;
    const both = await Promise.all([exec()(meet(a, b)), exec()(meet(b, a))]);
    expect(both.map(({ stdout }) => stdout)).toEqual(['met\n', 'met\n']);
  });

  it('ends a command that takes too long, with all that it started, and keeps what it said', async () => {
    const started = Date.now();
    const result = await exec()('echo begun; sleep 4321 & sleep 4321', { timeoutMs: 3_000 });
    expect(result).toMatchObject({ code: 128 + 9, stdout: 'begun\n', timedOut: true });
    expect(Date.now() - started).toBeLessThan(30_000);
    expect((await exec()(['pgrep', '-f', '^sleep 4321'])).stdout).toBe('');
  });
});

describe('level 1', () => {
  it('has a KVM that says it is version 12', async () => {
    // KVM_GET_API_VERSION is _IO(KVMIO, 0x00).
    const script = `open my $kvm, '+<', '/dev/kvm' or die $!; print ioctl($kvm, 0xae00, 0)`;
    expect(await lab.exec(['perl', '-e', script])).toMatchObject({ code: 0, stdout: '12' });
  });

  it('has the KVM of AMD with nested paging', async () => {
    const { stdout } = await lab.exec(
      'cat /sys/module/kvm_amd/parameters/npt; grep -ow svm /proc/cpuinfo | sort -u',
    );
    expect(stdout).toMatch(/^[1Y]\nsvm\n$/);
  });

  it('has terminals, shared memory, a tun device and a loopback network', async () => {
    const { stdout } = await lab.exec(
      'script -qec "test -t 0 && echo tty" /dev/null; touch /dev/shm/x && echo shm; test -c /dev/net/tun && echo tun; ip -o addr show lo',
    );
    expect(stdout).toMatch(/^tty\r?\nshm\ntun\n.*127\.0\.0\.1/s);
  });

  it('allows user namespaces, which programs that confine themselves make', async () => {
    expect(await lab.exec(['unshare', '--user', '--map-root-user', 'id', '-u'])).toMatchObject({
      stdout: '0\n',
    });
  });

  it('sees the working tree under its own path', async () => {
    const manifest = join(packageRoot(), 'package.json');
    expect((await lab.exec(['cat', manifest])).stdout).toBe(readFileSync(manifest, 'utf8'));
  });

  it('keeps what is written to itself', async () => {
    const file = join(scratch, 'mine');
    writeFileSync(file, 'host');
    expect(
      await lab.exec(`echo lab > ${file}; echo new > ${file}.new; cat ${file} ${file}.new`),
    ).toMatchObject({
      stdout: 'lab\nnew\n',
    });
    expect(readFileSync(file, 'utf8')).toBe('host');
    expect(existsSync(`${file}.new`)).toBe(false);
  });

  it('shares one directory with the host, both ways', async () => {
    const file = join(lab.shared, 'both');
    writeFileSync(file, 'from the host');
    expect((await lab.exec(`cat '${file}'; printf 'from the lab' > '${file}'`)).stdout).toBe('from the host');
    expect(readFileSync(file, 'utf8')).toBe('from the lab');
  });

  it('inserts further modules with what they need, and minds none that is there', async () => {
    const host = { kind: 'lab', exec: lab.exec.bind(lab) } as const;
    await insertModules(host, ['bridge', 'tun']);
    await insertModules(host, ['bridge']);
    expect((await lab.exec('ip link add br0 type bridge && ip -br link show br0')).stdout).toMatch(/^br0 /);
  });

  it('tells commands that they are in the lab already', async () => {
    expect((await lab.exec('echo $TSVM_LAB')).stdout).toBe('never\n');
  });
});

describe('a shared level 1', () => {
  it('shows a new client the tree as it is then', async () => {
    const file = join(scratch, 'changing');
    writeFileSync(file, 'old');
    expect((await client.exec(['cat', file])).stdout).toBe('old');
    writeFileSync(file, 'newer');
    const next = await LabClient.connect(socket);
    expect((await next.exec(['cat', file])).stdout).toBe('newer');
    next.close();
  });

  it('ends the commands of a client that leaves', async () => {
    const leaving = await LabClient.connect(socket);
    const running = leaving.exec('echo begun; sleep 1234', { onOutput: () => leaving.close() });
    await expect(running).rejects.toThrow(LabError);
    const gone = 'for i in $(seq 100); do pgrep -f "^sleep 1234" || exit 0; sleep 0.1; done; exit 1';
    expect(await client.exec(gone)).toMatchObject({ code: 0 });
  });
});

describe('a level 1 that fails', () => {
  it('fails a command within its limit where it hangs, with the end of the console', async () => {
    await lab.exec('echo "sign of life" > /dev/ttyS0');
    process.kill(lab.pid, 'SIGSTOP');
    try {
      const started = Date.now();
      const hung = await Promise.allSettled([
        lab.exec('true', { timeoutMs: 1_000 }),
        client.exec('true', { timeoutMs: 1_000 }),
      ]);
      for (const message of failures(hung)) expect(message).toMatch(/does not answer.*sign of life/s);
      expect(Date.now() - started).toBeLessThan(20_000);
    } finally {
      process.kill(lab.pid, 'SIGCONT');
    }
  });

  it('fails pending and later commands where it is killed, with the end of the console', async () => {
    const pending = Promise.allSettled([
      lab.exec('sleep 1000', { timeoutMs: 60_000 }),
      client.exec('sleep 1000', { timeoutMs: 60_000 }),
    ]);
    await lab.exec('true');
    process.kill(lab.pid, 'SIGKILL');
    for (const message of failures(await pending)) {
      expect(message).toMatch(/level 1 ended by SIGKILL.*sign of life/s);
    }
    await expect(lab.exec('true')).rejects.toThrow(/level 1 ended by SIGKILL/);
    await expect(client.exec('true')).rejects.toThrow(LabError);
  });

  it('is replaced for the next client', async () => {
    const next = await LabClient.connect(socket);
    expect(await next.exec('echo back')).toMatchObject({ stdout: 'back\n' });
    next.close();
  });
});

describe('fetchedQemu', () => {
  it('runs out of the cache, by its own loader', async () => {
    const { command, args, env } = await fetchedQemu();
    const { stdout } = await execa(command, [...args, '-M', 'help'], { env });
    expect(stdout).toMatch(/^microvm /m);
  });
});

describe('npm run lab', () => {
  const argv = ['--import', 'tsx', join(packageRoot(), 'test/lab/main.ts')];

  it('passes input, output and exit status, and leaves what --shared names', async () => {
    const shared = join(scratch, 'shared');
    const line = 'cat; echo err >&2; echo kept > $TSVM_LAB_SHARED/file; exit 5';
    const result = await execa(process.execPath, [...argv, '--shared', shared, line], {
      ...{ input: 'in', reject: false, cwd: packageRoot() },
    });
    expect(result).toMatchObject({ stdout: 'in', stderr: 'err', exitCode: 5 });
    expect(readFileSync(join(shared, 'file'), 'utf8')).toBe('kept\n');
  });

  it('leaves no level 1 behind when it is killed', async () => {
    const shared = join(scratch, 'orphan');
    const run = execa(process.execPath, [...argv, '--shared', shared, 'sleep 1000'], {
      ...{ reject: false, cwd: packageRoot() },
    });
    const qemus = () =>
      readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandLine(pid).includes(`path=${shared}`));
    while (qemus().length === 0) await sleep(100);
    run.kill('SIGKILL');
    await run;
    for (let i = 0; i < 50 && qemus().length > 0; i++) await sleep(100);
    expect(qemus()).toEqual([]);
  });
});

function failures(results: readonly PromiseSettledResult<unknown>[]): string[] {
  return results.map((result) => (result.status === 'rejected' ? String(result.reason) : 'no failure'));
}

function commandLine(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'latin1');
  } catch {
    return '';
  }
}
