import { once } from 'node:events';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test, type TestContext } from 'vitest';
import { DebianError } from '../../../../images/debian/packages.ts';
import { AgentClient } from '../../../../src/manager/agent/client.ts';
import { GuestAgent } from '../../../support/guest-agent.ts';

// The real agent, on this host.

let agent: GuestAgent | undefined;
let unavailable = '';
let client: AgentClient;

beforeAll(async () => {
  try {
    agent = await GuestAgent.fetch();
    await agent.start();
  } catch (error) {
    if (!(error instanceof DebianError)) throw error;
    unavailable = error.message;
  }
}, 300_000);

afterAll(async () => agent?.close());

beforeEach((context) => {
  client = new AgentClient(running(context).path);
});

afterEach(() => client.close());

function running(context: TestContext): GuestAgent {
  return agent ?? context.skip(`no qemu-guest-agent: ${unavailable}`);
}

const text = (bytes: Buffer): string => bytes.toString();

describe('qemu-guest-agent', () => {
  test('answers a ping', async () => {
    await client.ping();
    await client.ping();
  });

  test('may answer later than it is asked for a sign of life once more', async (context) => {
    const real = connect(running(context).path);
    // A guest that boots: what it is sent waits for it, and it is seconds behind.
    const slow = new Duplex({
      read: () => undefined,
      write: (bytes: Buffer, _encoding, done) => {
        real.write(bytes);
        done();
      },
    });
    real.on('data', (bytes: Buffer) => setTimeout(() => slow.push(bytes), 1700));
    await using late = new AgentClient(slow);
    await late.waitUntilReady({ timeout: 30_000 });
    expect((await late.osInfo()).machine).toBe('x86_64');
    real.destroy();
  });

  test('says what it is and what it can do', async () => {
    const { version, commands } = await client.info();
    expect(version).toMatch(/^\d+\.\d+/);
    expect(commands).toContainEqual({ name: 'guest-ping', enabled: true, successResponse: true });
    expect(commands).toContainEqual({ name: 'guest-shutdown', enabled: false, successResponse: false });
  });

  test('says what system it runs on', async () => {
    const release = readFileSync('/etc/os-release', 'utf8');
    const id = /^ID="?([^"\n]*)"?$/m.exec(release)?.[1];
    const info = await client.osInfo();
    expect(info).toMatchObject({ id, machine: 'x86_64' });
    expect(info.kernelRelease).toBe(readFileSync('/proc/sys/kernel/osrelease', 'utf8').trim());
  });

  test('names network interfaces and their addresses', async () => {
    const interfaces = await client.networkInterfaces();
    const loopback = interfaces.find(({ name }) => name === 'lo');
    expect(loopback?.addresses).toContainEqual({ address: '127.0.0.1', type: 'ipv4', prefix: 8 });
  });

  test('tells the time', async () => {
    const before = Date.now();
    const time = (await client.time()).getTime();
    expect(time).toBeGreaterThanOrEqual(before - 1);
    expect(time).toBeLessThanOrEqual(Date.now() + 1);
  });

  test('refuses commands that are blocked: an error with its class and its words', async () => {
    const refused = { name: 'AgentCommandError', errorClass: 'CommandNotFound' };
    await expect(client.freeze()).rejects.toMatchObject({ ...refused, command: 'guest-fsfreeze-freeze' });
    await expect(client.shutdown('reboot')).rejects.toMatchObject({ ...refused, command: 'guest-shutdown' });
    await expect(client.setTime()).rejects.toThrow(/^the guest agent refuses guest-set-time: .+/);
    await client.ping();
  });

  test('says whether file systems are frozen', async () => {
    expect(await client.freezeStatus()).toBe('thawed');
  });
});

describe('exec', () => {
  test('returns exit code and output', async () => {
    const result = await client.exec('sh', ['-c', 'echo out; echo err >&2; exit 7']);
    expect(result).toMatchObject({ exitCode: 7, signal: undefined, stdoutTruncated: false });
    expect([text(result.stdout), text(result.stderr)]).toEqual(['out\n', 'err\n']);
  });

  test('passes arguments as they are', async () => {
    const args = ['a b', '', '"$x\'', 'ü€\n'];
    const { stdout } = await client.exec('printf', ['%s|', ...args]);
    expect(text(stdout)).toBe(args.map((arg) => `${arg}|`).join(''));
  });

  test('passes input and output of any bytes', async () => {
    const input = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 7) & 0xff);
    const { stdout } = await client.exec('cat', [], { input });
    expect(Buffer.compare(stdout, input)).toBe(0);
  });

  test('gives the environment that it is told, and no other', async () => {
    const { stdout } = await client.exec('/usr/bin/env', [], { env: { ONE: '1', TWO: 'a=b' } });
    expect(text(stdout).trim().split('\n').sort()).toEqual(['ONE=1', 'TWO=a=b']);
  });

  test('keeps no output where it is not wanted', async () => {
    const { exitCode, stdout } = await client.exec('echo', ['x'], { captureOutput: false });
    expect([exitCode, stdout.length]).toEqual([0, 0]);
  });

  test('says where a signal has ended the command', async () => {
    const { exitCode, signal } = await client.exec('sh', ['-c', 'kill -TERM $$']);
    expect([exitCode, signal]).toEqual([undefined, 15]);
  });

  test('says where there was more output than the agent keeps', async () => {
    const { stdout, stdoutTruncated, stderrTruncated } = await client.exec('head', [
      '-c',
      '17000000',
      '/dev/zero',
    ]);
    expect([stdout.length, stdoutTruncated, stderrTruncated]).toEqual([16 * 1024 * 1024, true, false]);
  });

  test('throws where there is no such command', async () => {
    await expect(client.exec('no-such-command')).rejects.toMatchObject({
      name: 'AgentCommandError',
      command: 'guest-exec',
    });
  });

  test('runs commands side by side', async () => {
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, i) => client.exec('sh', ['-c', `sleep 0.2; echo ${i}`])),
    );
    expect(results.map(({ stdout }) => text(stdout))).toEqual(Array.from({ length: 8 }, (_, i) => `${i}\n`));
  });

  /** A command that says who it is and stays; and its process id, once it has said it. */
  const lingering = (context: TestContext, name: string) => {
    const file = join(running(context).directory, name);
    const pid = async (): Promise<number> => {
      for (;;) {
        const said = existsSync(file) ? Number(readFileSync(file, 'utf8')) : 0;
        if (said > 0) return said;
        await sleep(5);
      }
    };
    return { args: ['-c', `echo $$ > ${file}; exec sleep 1000`], pid };
  };

  test('kills a command that runs out of time, and says what it waited for', async (context) => {
    const { args, pid } = lingering(context, 'timeout.pid');
    const result = client.exec('sh', args, { timeout: 500 });
    await expect(result).rejects.toMatchObject({
      name: 'AgentTimeoutError',
      waitedFor: 'end of the command sh',
      timeout: 500,
      message: 'the guest agent: no end of the command sh within 0.5 s; it was killed',
    });
    const number = await pid();
    expect(() => process.kill(number, 0)).toThrow(/ESRCH/);
  });

  test('kills a command that is aborted, and throws the reason', async (context) => {
    const { args, pid } = lingering(context, 'abort.pid');
    const controller = new AbortController();
    const result = client.exec('sh', args, { signal: controller.signal });
    const number = await pid();
    controller.abort(new Error('enough'));
    await expect(result).rejects.toThrow('enough');
    expect(() => process.kill(number, 0)).toThrow(/ESRCH/);
  });

  test('starts nothing where it is aborted already', async (context) => {
    const file = join(running(context).directory, 'never');
    const signal = AbortSignal.abort(new Error('before'));
    await expect(client.exec('touch', [file], { signal })).rejects.toThrow('before');
    await client.ping();
    expect(existsSync(file)).toBe(false);
  });

  test('refuses more input than the agent takes', async () => {
    const input = new Uint8Array(16 * 1024 * 1024 + 1);
    await expect(client.exec('cat', [], { input })).rejects.toThrow(RangeError);
  });
});

describe('files', () => {
  test('are written and read in pieces', async (context) => {
    const path = join(running(context).directory, 'data');
    const bytes = Uint8Array.from({ length: 2_500_000 }, (_, i) => (i * 31) & 0xff);
    const writer = await client.openFile(path, 'w');
    await writer.write(bytes);
    await writer.close();
    expect(Buffer.compare(readFileSync(path), bytes)).toBe(0);
    const reader = await client.openFile(path);
    const pieces: Buffer[] = [];
    for (let eof = false; !eof;) {
      const piece = await reader.read();
      pieces.push(piece.bytes);
      ({ eof } = piece);
    }
    await reader.close();
    expect(Buffer.compare(Buffer.concat(pieces), bytes)).toBe(0);
  });

  test('that are not there are an error of the agent', async () => {
    await expect(client.openFile('/no/such/file')).rejects.toMatchObject({
      name: 'AgentCommandError',
      description: expect.stringMatching(/No such file/) as string,
    });
  });

  test('that are closed cannot be read', async (context) => {
    const path = join(running(context).directory, 'closed');
    writeFileSync(path, 'x');
    const file = await client.openFile(path);
    await file.close();
    await expect(file.read()).rejects.toMatchObject({ name: 'AgentCommandError' });
  });
});

describe('what an earlier client has left', () => {
  test.each([
    ['half a request', '{"execute":"guest-ping","argume'],
    ['an open string', '{"execute":"guest-pi'],
    ['no request at all', 'hello\n}}]]'],
    ['requests whose answers nobody has read', '{"execute":"guest-ping"}\n{"execute":"guest-info"}\n'],
  ])('does not disturb the next one: %s', async (_, leftover) => {
    const before = connect(agent!.path);
    await once(before, 'connect');
    before.write(leftover);
    await sleep(50);
    before.destroy();
    await sleep(50);
    expect((await client.info()).version).toMatch(/^\d/);
  });

  test('on the same connection does not disturb it either', async () => {
    const stream = connect(agent!.path);
    await once(stream, 'connect');
    stream.write('{"execute":"guest-info"}\n{"execute":"guest-sync","arguments":{"id":1}}\n{"exec');
    const over = new AgentClient(stream);
    expect(await over.freezeStatus()).toBe('thawed');
    over.close();
  });
});

describe('the connection', () => {
  test('that another client holds gives no sign of life, and says what to look for', async () => {
    await client.ping();
    const other = new AgentClient(agent!.path);
    await expect(other.ping({ timeout: 700 })).rejects.toMatchObject({
      name: 'AgentTimeoutError',
      waitedFor: 'sign of life',
      message: expect.stringMatching(/within 0\.7 s; is qemu-guest-agent installed/) as string,
    });
    other.close();
  });

  test('is made again where the agent has been restarted', async (context) => {
    const restarted = running(context);
    await client.ping();
    await restarted.stop();
    await expect(client.ping()).rejects.toMatchObject({ name: 'AgentConnectionError' });
    const ready = client.waitUntilReady({ timeout: 20_000 });
    await sleep(200);
    await restarted.start();
    await ready;
    await client.ping();
  });

  test('that cannot be made says why', async () => {
    const nowhere = new AgentClient('/nowhere/agent.sock');
    await expect(nowhere.ping()).rejects.toThrow(/cannot connect to the guest agent at '\/nowhere.*exist/);
    await expect(nowhere.waitUntilReady({ timeout: 300 })).rejects.toMatchObject({
      name: 'AgentTimeoutError',
      waitedFor: 'connection',
    });
    nowhere.close();
    await expect(nowhere.waitUntilReady()).rejects.toMatchObject({ name: 'AgentConnectionError' });
  });
});
