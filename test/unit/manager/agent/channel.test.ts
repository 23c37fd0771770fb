import { afterEach, describe, expect, test } from 'vitest';
import { AgentClient, type AgentOptions } from '../../../../src/manager/agent/client.ts';
import { Peer, type Answer } from './peer.ts';

// What the real agent never does.

let peer: Peer;
let client: AgentClient;

async function against(answer: Answer, options: AgentOptions & { syncs?: boolean } = {}): Promise<void> {
  const { syncs, ...rest } = options;
  peer = await Peer.open(answer, syncs === undefined ? {} : { syncs });
  client = new AgentClient(peer.stream, rest);
}

afterEach(() => {
  client.close();
  peer.close();
});

const ok = '{"return": {}}\n';
const executed = (): string[] => peer.requests.map(({ execute }) => execute);

describe('an answer', () => {
  test.each([
    ['no JSON', 'x\n'],
    ['JSON that is no answer', '[1]\n'],
    ['an error without a class', '{"error": {"desc": "x"}}\n'],
    ['of another form than the command has', '{"return": {"version": 7}}\n'],
  ])('that is %s is an error of the protocol, and the next request is in order', async (_, said) => {
    let calls = 0;
    await against((request, say) => say(++calls === 1 ? said : ok));
    await expect(client.info()).rejects.toMatchObject({ name: 'AgentProtocolError' });
    await client.ping();
  });

  test('in many small pieces is put together', async () => {
    await against((_, say) => {
      for (const byte of Buffer.from('{"return": "frozen"}\n')) say(Uint8Array.of(byte));
    });
    expect(await client.freezeStatus()).toBe('frozen');
  });

  test('that is too large ends the connection, whether its end comes or not', async () => {
    await against((_, say) => say(Buffer.alloc(70_000, 0x20)), { replyLimit: 65_536 });
    await expect(client.ping()).rejects.toThrow(/answers with more than 65536 bytes/);
    await expect(client.ping()).rejects.toThrow(/answers with more than 65536 bytes/);
  });

  test('as large as the limit is taken', async () => {
    await against((_, say) => say(`${'{"return": {}}'.padEnd(65_536)}\n`), { replyLimit: 65_536 });
    await client.ping();
  });

  test('that says it read or wrote what it cannot have is an error of the protocol', async () => {
    const answers: Readonly<Record<string, string>> = {
      'guest-file-open': '{"return": 1}\n',
      'guest-file-read': '{"return": {"count": 5, "buf-b64": "AAAA", "eof": false}}\n',
      'guest-file-write': '{"return": {"count": 9, "eof": false}}\n',
    };
    await against(({ execute }, say) => say(answers[execute]!));
    const file = await client.openFile('/x', 'r+');
    await expect(file.read()).rejects.toThrow(/read 5 of 1048576 bytes, and sends 3/);
    await expect(file.write(Uint8Array.of(1, 2))).rejects.toThrow(/written 9 of 2 bytes/);
  });
});

describe('answers to several signs of life that were asked for', () => {
  test('may come all at once', async () => {
    const ids: unknown[] = [];
    await against(
      (request, say) => {
        if (request.execute !== 'guest-sync-delimited') return say(ok);
        if (ids.push(request.arguments['id']) < 3) return;
        const sentinel = '{"error": {"class": "GenericError", "desc": "JSON parse error"}}\n';
        const answers = ids.map((id) => `${sentinel}\xff{"return": ${String(id)}}\n`);
        say(Buffer.from(answers.join(''), 'latin1'));
      },
      { syncs: true },
    );
    await client.waitUntilReady({ timeout: 20_000 });
    await client.ping();
    expect(executed().filter((command) => command === 'guest-sync-delimited')).toHaveLength(3);
  });
});

describe('an answer that comes too late', () => {
  test('is not taken for that to the next request', async () => {
    const late: (() => void)[] = [];
    await against(
      ({ execute }, say) => {
        if (execute === 'guest-info') late.push(() => say('{"return": "of long ago"}\n'));
        else if (execute === 'guest-fsfreeze-status') {
          for (const each of late.splice(0)) each();
          say('{"return": "thawed"}\n');
        } else say(ok);
      },
      { timeout: 100 },
    );
    await expect(client.info()).rejects.toMatchObject({
      name: 'AgentTimeoutError',
      waitedFor: 'answer to guest-info',
      timeout: 100,
    });
    // an agent answers in order: what is late comes before the answer to the next sync
    late.shift()!();
    expect(await client.freezeStatus()).toBe('thawed');
    expect(executed()).toEqual([
      'guest-sync-delimited',
      'guest-info',
      'guest-sync-delimited',
      'guest-fsfreeze-status',
    ]);
  });

  test('to a sync that was repeated is not taken for one to a command', async () => {
    const held: Parameters<Peer['sync']>[0][] = [];
    await against(
      (request, say) => {
        if (request.execute === 'guest-sync-delimited') {
          held.push(request);
          if (held.length !== 2) return;
          peer.sync(held[0]!);
          setTimeout(() => {
            say('{"error": {"class": "GenericError", "desc": "JSON parse error, stray"}}\n');
            peer.sync(held[1]!);
          }, 100);
          return;
        }
        say('{"return": "thawed"}\n');
      },
      { syncs: true },
    );
    expect(await client.freezeStatus()).toBe('thawed');
    expect(executed().slice(0, 2)).toEqual(['guest-sync-delimited', 'guest-sync-delimited']);
  });
});

describe('an agent that says nothing', () => {
  test('is asked again and again, and given up when the time is over', async () => {
    await against(() => undefined, { syncs: true });
    const before = performance.now();
    await expect(client.waitUntilReady({ timeout: 1200 })).rejects.toMatchObject({
      waitedFor: 'sign of life',
      timeout: 1200,
    });
    expect(performance.now() - before).toBeGreaterThan(1150);
    expect(peer.requests.length).toBeGreaterThanOrEqual(2);
  });

  test('is not waited for any more where the caller does not want to', async () => {
    await against(() => undefined);
    const waiting = client.ping({ signal: AbortSignal.timeout(50) });
    await expect(waiting).rejects.toMatchObject({ name: 'TimeoutError' });
  });

  test('and floods with what nobody has asked for keeps nobody busy', async () => {
    await against((_, say) => {
      for (let i = 0; i < 1000; i++) peer.sync({ execute: '', arguments: { id: i } });
      say(ok);
      for (let i = 0; i < 1000; i++) say('{"event": "x"}\n');
    });
    await client.ping();
    await client.ping({ timeout: 5000 });
  });
});

describe('a connection that ends', () => {
  test('in the middle of a request is an error of it and of all that follow', async () => {
    await against(() => peer.hangUp());
    await expect(client.ping()).rejects.toThrow(/the connection to the guest agent has ended/);
    await expect(client.ping()).rejects.toMatchObject({ name: 'AgentConnectionError' });
    await expect(client.waitUntilReady()).rejects.toMatchObject({ name: 'AgentConnectionError' });
  });

  test('by the client refuses what is asked and what waits', async () => {
    await against(() => undefined);
    const asked = [client.ping(), client.ping()];
    setTimeout(() => client.close(), 20);
    const results = await Promise.allSettled(asked);
    expect(results.map(({ status }) => status)).toEqual(['rejected', 'rejected']);
    expect(peer.stream.destroyed).toBe(true);
  });
});

describe('a shutdown', () => {
  test('that nothing is said to is on its way', async () => {
    await against(() => undefined);
    await client.shutdown();
    expect(peer.requests.at(-1)).toEqual({ execute: 'guest-shutdown', arguments: { mode: 'powerdown' } });
  });

  test('that ends the connection is on its way', async () => {
    await against(() => peer.hangUp());
    await client.shutdown('halt');
  });

  test('that the agent objects to is an error', async () => {
    await against((_, say) => say('{"error": {"class": "GenericError", "desc": "no"}}\n'));
    await expect(client.shutdown()).rejects.toThrow('the guest agent refuses guest-shutdown: no');
  });
});

describe('requests', () => {
  test('carry the time in nanoseconds, as an integer', async () => {
    await against((_, say) => say(ok));
    await client.setTime(new Date('2024-02-29T12:34:56.789Z'));
    expect(peer.requests.at(-1)).toEqual({
      execute: 'guest-set-time',
      arguments: { time: 1_709_210_096_789_000_000 },
    });
  });

  test('to freeze and thaw return the number of file systems', async () => {
    await against(({ execute }, say) => say(`{"return": ${execute.endsWith('freeze') ? 2 : 3}}\n`));
    expect([await client.freeze(), await client.thaw()]).toEqual([2, 3]);
  });

  test('are made one after the other, in their order', async () => {
    let open = 0;
    await against((_, say) => {
      open++;
      setTimeout(() => {
        if (--open !== 0) say('two at once\n');
        say(ok);
      }, 5);
    });
    await Promise.all(Array.from({ length: 5 }, () => client.ping()));
  });
});

describe('an agent that is silent while a command runs', () => {
  const started: Answer = ({ execute }, say) => {
    if (execute === 'guest-exec') say('{"return": {"pid": 7}}\n');
  };

  test('has lost it where it is so for too long', async () => {
    await against(started, { timeout: 50 });
    await expect(client.exec('sh')).rejects.toMatchObject({
      name: 'AgentTimeoutError',
      waitedFor: 'answer to guest-exec-status',
    });
  });

  test('does not keep one that has no more time, or is aborted', async () => {
    await against(started);
    await expect(client.exec('sh', [], { timeout: 50 })).rejects.toMatchObject({
      waitedFor: 'end of the command sh',
    });
    const signal = AbortSignal.timeout(50);
    await expect(client.exec('sh', [], { signal })).rejects.toThrow('aborted due to timeout');
  });

  test('has not, where it answers at last', async () => {
    const late: Answer = (request, say) => {
      started(request, say);
      if (request.execute === 'guest-exec-status')
        setTimeout(() => say('{"return": {"exited": true, "exitcode": 3}}\n'), 100);
    };
    await against(late);
    await expect(client.exec('sh')).resolves.toMatchObject({ exitCode: 3 });
  });
});
