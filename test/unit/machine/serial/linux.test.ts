import { beforeEach, describe, expect, it } from 'vitest';

import { Serial } from '../../../../src/machine/serial/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';
import { randomFrom } from '../random.ts';
import { Linux8250 } from './driver.ts';

let bus: FakeBus;
let irq: FakeIrq;
let sent: number[];
let uart: Serial;

beforeEach(() => {
  bus = new FakeBus();
  irq = new FakeIrq();
  sent = [];
  uart = new Serial({ bus, irq, output: (bytes) => sent.push(...bytes) });
});

describe('Linux’s 8250 driver', () => {
  it('finds a 16550A', async () => {
    expect(await new Linux8250(bus, irq).autoconfig()).toBe('16550A');
  });

  it('finds a FIFO of 16 bytes in loopback', async () => {
    expect(await new Linux8250(bus, irq).sizeFifo()).toBe(16);
  });

  it('finds no transmit interrupt bug', async () => {
    expect(await new Linux8250(bus, irq).startup()).toEqual({ bugThre: false, bugTxen: false });
  });

  it('waits at most once for a console message, not for its characters', async () => {
    const driver = new Linux8250(bus, irq);
    await driver.startup();
    bus.drain();
    const before = bus.waits;
    await driver.consoleWrite('a message of the kernel\n'.repeat(100));
    await driver.consoleWrite('and another\n');
    expect(bus.waits - before).toBeLessThanOrEqual(2);
    bus.drain();
    await Promise.resolve();
    expect(Buffer.from(sent).toString()).toMatch(/^(a message of the kernel\n){100}and another\n$/);
  });

  it.each([1, 2, 3, 4, 5, 6, 7, 8])(
    'loses no character and no interrupt at random drain points (seed %i)',
    async (seed) => {
      const random = randomFrom(seed);
      const between = async (): Promise<void> => {
        const dice = random(8);
        if (dice === 0) bus.drain();
        if (dice <= 2) await Promise.resolve();
        if (dice === 3 && random(50) === 0) await new Promise(setImmediate);
      };
      const driver = new Linux8250(bus, irq, between);
      await driver.startup();
      const count = 10_000;
      const outgoing = Array.from({ length: count }, () => random(256));
      const incoming = Array.from({ length: count }, () => random(256));
      let queued = 0;
      let given = 0;
      let idle = 0;
      while (sent.length < count || driver.received.length < count) {
        if (queued < count && random(4) === 0) {
          const some = outgoing.slice(queued, queued + 1 + random(300));
          driver.toSend.push(...some);
          queued += some.length;
          await driver.startTx();
        }
        if (given < count && random(4) === 0) {
          const some = incoming.slice(given, given + 1 + random(100));
          void uart.input(Uint8Array.from(some));
          given += some.length;
        }
        bus.drain();
        await new Promise(setImmediate);
        const served = await driver.serve();
        idle = served || queued < count || given < count ? 0 : idle + 1;
        // A vCPU that has halted and gets no interrupt stays halted: this is what losing one looks like.
        if (idle > 20) {
          await new Promise((resolve) => setTimeout(resolve, 5));
          if (!(await driver.serve())) break;
          idle = 0;
        }
      }
      expect(sent).toEqual(outgoing);
      expect(driver.received).toEqual(incoming);
    },
  );

  it('is never kept in its handler by a flood that another CPU feeds', async () => {
    const driver = new Linux8250(bus, irq, async () => {
      bus.drain();
      await Promise.resolve();
      while (driver.toSend.length < 64) driver.toSend.push(0x2e);
    });
    await driver.startup();
    await driver.startTx();
    bus.drain();
    for (let served = 0; served < 20;) {
      if (await driver.serve()) served++;
      else await new Promise((resolve) => setTimeout(resolve, 1));
    }
    expect(driver.longestInterrupt).toBeLessThanOrEqual(256);
    expect(sent.length).toBeGreaterThan(10_000);
  });

  it('is never kept in its handler by a flood of input', async () => {
    const driver = new Linux8250(bus, irq, () => Promise.resolve());
    await driver.startup();
    void uart.input(new Uint8Array(60_000));
    while (driver.received.length < 60_000) {
      await new Promise(setImmediate);
      await driver.serve();
    }
    expect(driver.longestInterrupt).toBeLessThanOrEqual(256);
  });
});

describe('save and restore', () => {
  it('carry on in the middle of traffic in both directions', async () => {
    const random = randomFrom(99);
    const driver = new Linux8250(bus, irq);
    await driver.startup();
    driver.toSend.push(...Array.from({ length: 100 }, (_, i) => i));
    await driver.startTx();
    void uart.input(Uint8Array.from({ length: 10 }, (_, i) => 0xa0 + i));
    for (let i = 0; i < 3; i++) await driver.in(random(1));
    bus.drain();
    await Promise.resolve();
    const state: unknown = JSON.parse(JSON.stringify(uart.save()));
    const received = [...driver.received];
    const toSend = [...driver.toSend];

    bus = new FakeBus();
    irq = new FakeIrq();
    const again: number[] = [];
    const copy = new Serial({ bus, irq, output: (bytes) => again.push(...bytes) });
    copy.restore(state);
    expect(copy.save()).toEqual(state);
    expect(irq.level).toBe(true);
    const second = new Linux8250(bus, irq);
    second.received.push(...received);
    second.toSend.push(...toSend);
    await second.startTx();
    while (await second.serve()) {
      bus.drain();
      await new Promise(setImmediate);
    }
    expect(again).toEqual(toSend);
    expect(second.received).toEqual(Array.from({ length: 7 }, (_, i) => 0xa3 + i));
  });

  it('keep a character that is on its way out pending as an interrupt', async () => {
    bus.write('pio', 0x3fc, 1, 0x08);
    bus.write('pio', 0x3f9, 1, 0x02);
    bus.read('pio', 0x3fa, 1);
    bus.write('pio', 0x3f8, 1, 0x41);
    bus.drain();
    const state = uart.save();
    const line = new FakeIrq();
    new Serial({ bus: new FakeBus(), irq: line, output: () => undefined }).restore(state);
    expect(line.level).toBe(true);
    await Promise.resolve();
    expect(sent).toEqual([0x41]);
  });

  it.each<[string, object]>([
    ['ier', { ier: 0x10 }],
    ['mcr', { mcr: 0xff }],
    ['fcr', { fcr: 0x02 }],
    ['received', { fcr: 0x01, received: Array<number>(17).fill(0) }],
    ['received', { fcr: 0x00, received: [1, 2] }],
    ['received.0', { received: [256] }],
    ['divisor', { divisor: 0.5 }],
    ['overrun', { overrun: 'yes' }],
    ['threPending', { threPending: 1 }],
    ['bogus', { bogus: 1 }],
  ])('refuse a bad %s and change nothing', (field, bad) => {
    bus.write('pio', 0x3ff, 1, 0x77);
    bus.drain();
    const before = uart.save();
    expect(() => uart.restore({ ...before, ...bad })).toThrow(`state of serial, ${field}: `);
    expect(uart.save()).toEqual(before);
  });

  it.each([undefined, null, 1, 'x', []])('refuse %j as a whole', (data) => {
    expect(() => uart.restore(data)).toThrow('state of serial');
  });
});
