import { describe, expect, test, vi } from 'vitest';
import { ConsoleDevice } from '../../../src/devices/console/device.ts';
import { ConsoleHost } from '../../../src/vmm/console-host.ts';
import { ConsoleRig } from '../devices/console/support.ts';

function connected() {
  const host = new ConsoleHost();
  const device = new ConsoleDevice({ name: 'console0', ports: [{ console: true, backend: host }] });
  const rig = new ConsoleRig(device);
  rig.start();
  return { host, device, rig };
}

describe('a virtio console on the host', () => {
  test('hands what the guest says to all who listen, until they stop', () => {
    const { host, rig } = connected();
    const heard: string[] = [];
    const stop = host.onData((bytes) => heard.push(`1 ${Buffer.from(bytes).toString()}`));
    host.onData((bytes) => heard.push(`2 ${Buffer.from(bytes).toString()}`));
    rig.write(0, 'a');
    stop();
    rig.write(0, 'b');
    expect(heard).toEqual(['1 a', '2 a', '2 b']);
  });

  test('gives the guest what is written, more than its queue takes at once too', async () => {
    const { host, rig } = connected();
    const text = 'x'.repeat(100_000) + 'end';
    rig.giveBuffers(0, 8, 1000);
    const written = host.write(text);
    let seen = '';
    await vi.waitFor(
      () => {
        seen += rig.read(0, { giveAgain: true });
        expect(seen.length).toBe(text.length);
      },
      { timeout: 5000, interval: 1 },
    );
    expect(seen === text).toBe(true);
    await written;
  });

  test('has the guest go on where nobody listens, and keeps the last 64 KiB', () => {
    const { host, rig } = connected();
    for (let i = 0; i < 300; i++) {
      rig.buffers.clear();
      rig.write(0, `${String(i).padStart(4, '0')}${'.'.repeat(995)}\n`);
      rig.queue(1).collect();
    }
    const tail = host.tail();
    expect(Buffer.byteLength(tail)).toBe(65536);
    expect(tail.endsWith(`0299${'.'.repeat(995)}\n`)).toBe(true);
    expect(host.tail(2)).toBe(`0298${'.'.repeat(995)}\n0299${'.'.repeat(995)}`);
  });

  test('holds input over a change of machines, and gives it to the next one', async () => {
    const { host, device } = connected();
    device.close();
    const written = host.write('later');
    const next = new ConsoleRig(
      new ConsoleDevice({ name: 'console0', ports: [{ console: true, backend: host }] }),
    );
    await new Promise(setImmediate);
    next.start();
    next.giveBuffers(0, 1);
    await written;
    expect(next.read(0)).toBe('later');
  });

  test('goes on with the next machine where the one before has not taken its input', async () => {
    const { host } = connected();
    const lost = host.write('lost');
    await new Promise(setImmediate);
    const next = new ConsoleRig(
      new ConsoleDevice({ name: 'console0', ports: [{ console: true, backend: host }] }),
    );
    next.start();
    next.giveBuffers(0, 1);
    await lost;
    await Promise.all([host.write('new'), new Promise(setImmediate)]);
    expect(next.read(0)).toBe('new');
  });

  test('refuses input once the VM has ended', async () => {
    const { host, device } = connected();
    const pending = host.write('x');
    device.close();
    host.close();
    const refused = 'the VM has ended, its console takes no input';
    await expect(pending).rejects.toThrow(refused);
    await expect(host.write('y')).rejects.toThrow(refused);
  });
});

describe('tail', () => {
  test('of nothing is empty', () => {
    expect(new ConsoleHost().tail()).toBe('');
    expect(new ConsoleHost().tail(5)).toBe('');
  });

  test.each([1, 7, 1000, 65535, 65536, 65537, 200_000])('is right after pieces of %i bytes', (size) => {
    const host = new ConsoleHost();
    let all = '';
    for (let i = 0; all.length < 150_000; i++) {
      const piece = String.fromCharCode(97 + (i % 26)).repeat(size);
      host.output(Buffer.from(piece));
      all += piece;
    }
    expect(host.tail() === all.slice(-65536)).toBe(true);
  });
});
