import { Writable } from 'node:stream';

import { describe, expect, it } from 'vitest';

import { ConsoleOutput } from '../../../src/cli/console-output.ts';

/** A reader that takes the next write when told to. */
function slowReader(): { stream: Writable; taken: Buffer[]; take: (count?: number) => Promise<void> } {
  const taken: Buffer[] = [];
  const pending: (() => void)[] = [];
  const stream = new Writable({
    highWaterMark: 16,
    write(chunk: Buffer, _encoding, callback) {
      pending.push(() => {
        taken.push(chunk);
        callback();
      });
    },
  });
  const take = async (count = 1): Promise<void> => {
    for (let i = 0; i < count; i++) {
      pending.shift()?.();
      await new Promise((resolve) => setImmediate(resolve));
    }
  };
  return { stream, taken, take };
}

function output(stream: Writable, limit?: number): { console: ConsoleOutput; told: string[] } {
  const told: string[] = [];
  const events = {
    onDrop: () => void told.push('drop'),
    onError: (error: Error) => void told.push(error.message),
  };
  return { console: new ConsoleOutput(stream, events, limit), told };
}

describe('ConsoleOutput', () => {
  it('drops beyond the limit, tells so once, and goes on when the reader does', async () => {
    const reader = slowReader();
    const { console, told } = output(reader.stream, 100);
    for (let i = 0; i < 10; i++) console.write(Buffer.alloc(30, 0x30 + i));
    expect(console.dropped).toBe(7 * 30);
    expect(reader.stream.writableLength).toBe(90);
    expect(told).toEqual(['drop']);
    await reader.take(3);
    console.write(Buffer.from('later'));
    await reader.take();
    expect(Buffer.concat(reader.taken).toString()).toBe(
      `${'0'.repeat(30)}${'1'.repeat(30)}${'2'.repeat(30)}later`,
    );
    expect(told).toEqual(['drop']);
  });

  it('keeps memory bounded for a reader that never reads', () => {
    const { stream } = slowReader();
    const { console } = output(stream);
    for (let i = 0; i < 1000; i++) console.write(new Uint8Array(64 * 1024));
    expect(stream.writableLength).toBeLessThanOrEqual(1024 * 1024);
    expect(console.dropped + stream.writableLength).toBe(1000 * 64 * 1024);
  });

  it('lets one piece larger than the limit pass where nothing waits', async () => {
    const reader = slowReader();
    const { console } = output(reader.stream, 10);
    console.write(Buffer.alloc(50));
    await reader.take();
    expect(Buffer.concat(reader.taken).length).toBe(50);
    expect(console.dropped).toBe(0);
  });

  it('is flushed once the reader has taken all', async () => {
    const reader = slowReader();
    const { console } = output(reader.stream);
    await console.flushed();
    console.write(Buffer.from('a'));
    console.write(Buffer.from('b'));
    let flushed = false;
    const flushing = console.flushed().then(() => (flushed = true));
    await reader.take();
    expect(flushed).toBe(false);
    await reader.take();
    await flushing;
    expect(Buffer.concat(reader.taken).toString()).toBe('ab');
  });

  it('tells an error once, is flushed then, and writes nothing more', async () => {
    const stream = new Writable({
      write(_chunk, _encoding, callback) {
        callback(new Error('EPIPE'));
      },
    });
    const { console, told } = output(stream);
    console.write(Buffer.from('a'));
    await console.flushed();
    console.write(Buffer.from('b'));
    expect(told).toEqual(['EPIPE']);
  });

  it('knows whether a line is finished', () => {
    const { console } = output(slowReader().stream);
    expect(console.atLineStart).toBe(true);
    console.write(Buffer.from('login: '));
    expect(console.atLineStart).toBe(false);
    console.write(Buffer.from('root\r\n'));
    console.write(new Uint8Array(0));
    expect(console.atLineStart).toBe(true);
  });
});
