import { closeSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, test } from 'vitest';
import { FramePort } from '../../../src/kvm/frame-port.ts';
import { unixPair } from '../../../src/kvm/unix-socket.ts';
import { StreamBackend } from '../../../src/net/stream.ts';

/** A back end whose peers are made by the test. */
class World {
  readonly lines: string[] = [];
  readonly links: boolean[] = [];
  /** the other ends of the sockets that were given out */
  readonly peers: number[] = [];
  refuses = false;
  backend!: StreamBackend;

  async open(patience = 1000): Promise<this> {
    this.backend = await StreamBackend.open({
      name: 'test',
      log: (line) => this.lines.push(line),
      retry: { first: 1, last: 4 },
      patience,
      connect: () => {
        if (this.refuses) throw new Error('nobody is there');
        const [ours, theirs] = unixPair();
        this.peers.push(theirs);
        return ours;
      },
    });
    this.backend.onLink = (up) => this.links.push(up);
    return this;
  }

  get peer(): number {
    return this.peers.at(-1)!;
  }

  /** Waits for what takes a moment. */
  async until(condition: () => boolean): Promise<void> {
    const end = performance.now() + 5000;
    while (!condition()) {
      if (performance.now() > end) throw new Error('what was waited for did not happen');
      await new Promise((resolve) => setTimeout(resolve, 1));
    }
  }
}

const worlds: World[] = [];
async function world(patience?: number): Promise<World> {
  const made = await new World().open(patience);
  worlds.push(made);
  return made;
}
afterEach(async () => {
  for (const { backend } of worlds.splice(0)) await backend.close();
});

describe('a back end on a socket', () => {
  test('has a link at once, or an error of the start', async () => {
    expect((await world()).backend.link).toBe(true);
    const nobody = new World();
    nobody.refuses = true;
    await expect(nobody.open()).rejects.toThrow('nobody is there');
  });

  test('loses its link with its peer, with one line, and finds the next one by itself', async () => {
    const one = await world();
    one.refuses = true;
    closeSync(one.peer);
    await one.until(() => one.links.length === 1);
    expect(one.links).toEqual([false]);
    expect(one.lines).toEqual(['test: the link is down: its peer has gone']);
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(one.lines).toHaveLength(1);
    one.refuses = false;
    await one.until(() => one.backend.link);
    expect(one.links).toEqual([false, true]);
    expect(one.lines.at(-1)).toBe('test: the link is up again');
    const [, second] = one.peers;
    closeSync(second!);
    await one.until(() => one.peers.length === 3);
  });

  test('leaves a peer that does not speak the protocol', async () => {
    const one = await world();
    one.backend.port.user = {
      readable: () => void one.backend.port.receive(),
      writable: () => undefined,
    };
    one.backend.port.listen(true);
    writeSync(one.peer, Uint8Array.of(0xff, 0xff, 0xff, 0xff));
    await one.until(() => one.links.length > 0);
    expect(one.lines[0]).toMatch(/impossible length/);
  });

  test('takes its link down while its peer takes nothing, until it does', async () => {
    const one = await world(30);
    const { port } = one.backend;
    const buffer = port.register(new Uint8Array(60_000));
    while (!port.isBlocked) {
      port.tx.add(buffer, 0, 60_000);
      port.tx.end();
      port.send();
      port.tx.clear();
    }
    await one.until(() => one.links.length === 1);
    expect(one.backend.link).toBe(false);
    expect(one.lines).toEqual(['test: the link is down: its peer has taken nothing for 0.03 s']);
    const peer = new FramePort();
    peer.open(one.peer, 'stream', false);
    await one.until(() => {
      peer.consume(peer.fetch());
      return one.backend.link;
    });
    expect(one.lines.at(-1)).toMatch(/the link is up again/);
    expect(one.peers).toHaveLength(1);
    peer.shut();
  });
});
