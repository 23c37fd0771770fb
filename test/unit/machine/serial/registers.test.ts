import { beforeEach, describe, expect, it, vi } from 'vitest';

import { Serial } from '../../../../src/machine/serial/device.ts';
import { FakeBus, FakeIrq } from '../../../support/fake-bus.ts';

const BASE = 0x3f8;
const [DATA, IER, IIR, FCR, LCR, MCR, LSR, MSR, SCR] = [0, 1, 2, 2, 3, 4, 5, 6, 7] as const;

let bus: FakeBus;
let irq: FakeIrq;
let sent: string;
let calls: number;
let uart: Serial;

const read = (register: number): number => bus.read('pio', BASE + register, 1);
const write = (register: number, value: number): void => bus.write('pio', BASE + register, 1, value);
/** One turn of the event loop. */
const turn = async (): Promise<void> => {
  bus.drain();
  await Promise.resolve();
};
const RTS = 0x02;
/** The host sends, to a guest that listens. */
const input = async (text: string): Promise<void> => {
  if (!(read(MCR) & RTS)) write(MCR, read(MCR) | RTS);
  void uart.input(Buffer.from(text));
  await turn();
};

beforeEach(() => {
  bus = new FakeBus();
  irq = new FakeIrq();
  sent = '';
  calls = 0;
  const output = (bytes: Uint8Array): void => {
    sent += Buffer.from(bytes).toString('latin1');
    calls++;
  };
  uart = new Serial({ bus, irq, output });
});

describe('16550A registers', () => {
  it('has the data sheet’s values after reset', () => {
    expect([IER, IIR, LCR, MCR, LSR].map(read)).toEqual([0, 0x01, 0, 0, 0x60]);
  });

  it('keeps only the low nibble of IER and the low five bits of MCR', () => {
    write(IER, 0xff);
    write(MCR, 0xff);
    expect([read(IER), read(MCR)]).toEqual([0x0f, 0x1f]);
  });

  it('keeps LCR and SCR', () => {
    write(LCR, 0x1b);
    write(SCR, 0xa5);
    expect([read(LCR), read(SCR)]).toEqual([0x1b, 0xa5]);
  });

  it('switches offsets 0 and 1 to the divisor latch and back with DLAB, behind posted writes', async () => {
    write(IER, 0x05);
    write(LCR, 0x83);
    write(DATA, 0x0c);
    write(IER, 0x01);
    expect([read(DATA), read(IER)]).toEqual([0x0c, 0x01]);
    write(LCR, 0x03);
    expect(read(IER)).toBe(0x05);
    await turn();
    expect(sent).toBe('');
  });

  it('takes an access of two bytes as two registers', async () => {
    bus.write('pio', BASE + LCR, 2, 0x1003);
    expect(bus.read('pio', BASE + LCR, 2)).toBe(0x1003);
    bus.write('pio', BASE + MCR, 1, 0);
    await input('A');
    expect(bus.read('pio', BASE + DATA, 2)).toBe(0x0041);
  });

  it('ignores writes to LSR and MSR', async () => {
    write(LSR, 0xff);
    write(MSR, 0xff);
    await turn();
    expect([read(LSR), read(MSR)]).toEqual([0x60, 0xb0]);
  });

  it('shows the enabled FIFOs in IIR, and no 64-byte FIFO', () => {
    write(FCR, 0x21);
    expect(read(IIR)).toBe(0xc1);
    write(FCR, 0x00);
    expect(read(IIR)).toBe(0x01);
  });

  it('ignores FCR bits that come without the enable bit', async () => {
    write(FCR, 0xc0);
    write(FCR, 0x01);
    write(MCR, 0x08);
    write(IER, 0x01);
    await input('x');
    expect(read(IIR)).toBe(0xc4);
  });

  it('goes back to power-on values on reset', async () => {
    write(LCR, 0x83);
    write(MCR, 0x0b);
    write(FCR, 0xc1);
    await input('abc');
    uart.reset();
    expect([IER, IIR, LCR, MCR, LSR].map(read)).toEqual([0, 0x01, 0, 0, 0x60]);
    expect(irq.level).toBe(false);
  });
});

describe('transmitter', () => {
  it('hands over what one drain brought in one call', async () => {
    for (const char of 'hello') write(DATA, char.charCodeAt(0));
    await turn();
    expect([sent, calls]).toEqual(['hello', 1]);
  });

  it('hands over a burst of 100 KB in few calls and loses none of it', async () => {
    for (let i = 0; i < 100_000; i++) write(DATA, i & 0x7f);
    await turn();
    expect(sent.length).toBe(100_000);
    expect(Buffer.from(sent).every((value, i) => value === (i & 0x7f))).toBe(true);
    expect(calls).toBeLessThanOrEqual(4);
  });

  it('never makes a vCPU wait that polls LSR and writes THR', () => {
    for (let i = 0; i < 1000; i++) {
      expect(read(LSR) & 0x60).toBe(0x60);
      write(DATA, 0x41);
    }
    expect(bus.waits).toBe(0);
  });

  it('hands over the last output on close', () => {
    write(DATA, 0x21);
    bus.drain();
    uart.close();
    expect(sent).toBe('!');
  });

  it('raises THRE when its interrupt is enabled, and again after IIR cleared it and it is enabled anew', () => {
    write(IER, 0x02);
    expect(read(IIR)).toBe(0x02);
    expect(read(IIR)).toBe(0x01);
    write(IER, 0x02);
    expect(read(IIR)).toBe(0x01);
    write(IER, 0x00);
    write(IER, 0x02);
    expect(read(IIR)).toBe(0x02);
  });

  it('gives an edge for a character written while THRE is still pending', async () => {
    write(MCR, 0x08);
    write(IER, 0x02);
    await turn();
    const before = irq.edges;
    write(DATA, 0x41);
    await turn();
    expect([irq.edges, irq.level]).toEqual([before + 1, true]);
  });
});

describe('receiver', () => {
  it('gives characters in order and shows data ready as long as there are some', async () => {
    write(FCR, 0x01);
    await input('ab');
    expect(read(LSR)).toBe(0x61);
    expect(read(DATA)).toBe(0x61);
    expect(read(LSR)).toBe(0x61);
    expect(read(DATA)).toBe(0x62);
    expect(read(LSR)).toBe(0x60);
  });

  it('holds one character where the FIFOs are off, and the next one waits on the wire', async () => {
    await input('ab');
    expect(String.fromCharCode(read(DATA))).toBe('a');
    expect(read(LSR)).toBe(0x60);
    await turn();
    expect(String.fromCharCode(read(DATA))).toBe('b');
  });

  it('reads zero where nothing was received', () => {
    expect(read(DATA)).toBe(0);
  });

  it.each([
    [0x01, 1],
    [0x41, 4],
    [0x81, 8],
    [0xc1, 14],
  ])('with FCR %i tells data available from %i characters on and a timeout below', async (fcr, level) => {
    write(FCR, fcr);
    write(IER, 0x01);
    await input('x'.repeat(level));
    expect(read(IIR)).toBe(0xc4);
    read(DATA);
    expect(read(IIR)).toBe(level > 1 ? 0xcc : 0xc1);
  });

  it('resolves input once the FIFO has taken all of it', async () => {
    write(FCR, 0x01);
    write(MCR, RTS);
    const done = vi.fn();
    void uart.input(new Uint8Array(17)).then(done);
    await turn();
    for (let i = 0; i < 16; i++) {
      expect(done).not.toHaveBeenCalled();
      read(DATA);
    }
    await turn();
    await turn();
    expect(done).toHaveBeenCalledOnce();
  });

  it('refuses input beyond its limit with nothing taken, and tells its room', async () => {
    const limit = uart.inputRoom;
    await expect(uart.input(new Uint8Array(limit + 1))).rejects.toThrow(RangeError);
    expect(uart.inputRoom).toBe(limit);
    void uart.input(new Uint8Array(limit));
    expect(uart.inputRoom).toBe(0);
    await expect(uart.input(new Uint8Array(1))).rejects.toThrow(RangeError);
  });

  it('keeps a copy of input: the caller may use the buffer again', async () => {
    const bytes = Uint8Array.of(0x41);
    write(MCR, RTS);
    void uart.input(bytes);
    bytes[0] = 0;
    await turn();
    expect(read(DATA)).toBe(0x41);
  });

  it('rejects waiting input on close', async () => {
    const waiting = uart.input(new Uint8Array(100));
    uart.close();
    await expect(waiting).rejects.toThrow('serial is closed');
    await expect(uart.input(new Uint8Array(1))).rejects.toThrow('serial is closed');
  });

  it('empties the FIFO on an FCR reset at once', async () => {
    write(FCR, 0x01);
    await input('abc');
    write(FCR, 0x03);
    expect(read(LSR)).toBe(0x60);
  });

  it('holds input back from a guest that has not raised RTS, or has dropped it', async () => {
    void uart.input(Buffer.from('ab'));
    await turn();
    expect(read(LSR)).toBe(0x60);
    write(MCR, RTS);
    await turn();
    expect(read(DATA)).toBe(0x61);
    write(MCR, 0);
    await turn();
    expect(read(LSR)).toBe(0x60);
    write(MCR, RTS);
    await turn();
    expect(read(DATA)).toBe(0x62);
  });

  it('sends to a guest without modem control once it polls for input, and not while it writes', async () => {
    vi.useFakeTimers();
    const poll = (times: number): void => {
      for (let i = 0; i < times; i++) read(LSR);
    };
    try {
      void uart.input(Buffer.from('a'));
      await turn();
      vi.advanceTimersByTime(60_000);
      expect(read(LSR)).toBe(0x60);
      write(DATA, 0x41);
      await turn();
      poll(1000);
      vi.advanceTimersByTime(250);
      expect(read(LSR)).toBe(0x60);
      poll(1000);
      vi.advanceTimersByTime(250);
      expect(read(LSR)).toBe(0x61);
    } finally {
      vi.useRealTimers();
    }
  });
});

describe('loopback', () => {
  it.each([
    [0x01, 0x20],
    [0x02, 0x10],
    [0x04, 0x40],
    [0x08, 0x80],
  ])('reflects MCR output %i as MSR line %i', (output, line) => {
    write(MCR, 0x10 | output);
    expect(read(MSR) & 0xf0).toBe(line);
  });

  it('sends to its own receiver and not to the host', async () => {
    write(FCR, 0x01);
    write(MCR, 0x10);
    write(DATA, 0x5a);
    await turn();
    expect([read(LSR), read(DATA), sent]).toEqual([0x61, 0x5a, '']);
  });

  it('takes no host input until it ends', async () => {
    write(MCR, 0x10);
    await input('a');
    expect(read(LSR)).toBe(0x60);
    write(MCR, RTS);
    await turn();
    expect(read(LSR)).toBe(0x61);
  });

  it('overruns a full FIFO, keeps what was in it, and clears the error on the next RBR read', async () => {
    write(FCR, 0x01);
    write(MCR, 0x10);
    for (let i = 0; i < 17; i++) write(DATA, i);
    await turn();
    expect(read(LSR)).toBe(0x63);
    expect(read(DATA)).toBe(0);
    expect(read(LSR)).toBe(0x61);
    for (let i = 1; i < 16; i++) expect(read(DATA)).toBe(i);
    expect(read(LSR)).toBe(0x60);
  });

  it('overruns a single holding register with the newer character', async () => {
    write(MCR, 0x10);
    write(DATA, 1);
    write(DATA, 2);
    await turn();
    expect(read(LSR)).toBe(0x63);
    expect(read(DATA)).toBe(2);
  });

  it('tells changed lines once, the ring indicator only when it goes off', async () => {
    write(MCR, 0x10 | 0x0f);
    await turn();
    expect(read(MSR)).toBe(0xf0);
    write(MCR, 0x10);
    expect(read(MSR)).toBe(0x0f);
    expect(read(MSR)).toBe(0x00);
  });
});

describe('interrupts', () => {
  it('come in the data sheet’s priority, each cleared its own way', async () => {
    write(IER, 0x0f);
    write(MCR, 0x10);
    write(DATA, 1);
    write(DATA, 2);
    await turn();
    expect(read(IIR)).toBe(0x06);
    expect(read(IIR)).toBe(0x04);
    read(DATA);
    expect(read(IIR)).toBe(0x02);
    expect(read(IIR)).toBe(0x00);
    read(MSR);
    expect(read(IIR)).toBe(0x01);
  });

  it('reach the line only through OUT2', async () => {
    write(IER, 0x01);
    await input('a');
    expect(irq.level).toBe(false);
    write(MCR, 0x08);
    await turn();
    expect(irq.level).toBe(true);
    write(MCR, 0x18);
    await turn();
    expect(irq.level).toBe(false);
  });

  it('hold the line while characters wait and drop it with the last', async () => {
    write(FCR, 0x01);
    write(MCR, 0x08);
    write(IER, 0x01);
    await input('ab');
    expect([irq.level, irq.edges]).toEqual([true, 1]);
    read(DATA);
    expect(irq.level).toBe(true);
    read(DATA);
    expect(irq.level).toBe(false);
    await input('c');
    expect([irq.level, irq.edges]).toEqual([true, 2]);
  });

  it('fall silent for a millisecond after 128 in a row, and then go on', async () => {
    write(MCR, 0x08);
    write(IER, 0x02);
    for (let i = 0; i < 128; i++) {
      write(DATA, 0x41);
      expect(read(IIR)).toBe(0x02);
    }
    write(DATA, 0x41);
    await turn();
    expect(irq.level).toBe(false);
    await vi.waitFor(() => expect(irq.level).toBe(true));
  });
});
