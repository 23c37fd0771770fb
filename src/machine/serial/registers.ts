/** Registers of the 16550A (National Semiconductor PC16550D data sheet, 8.0 "Registers"). */

/** Register offsets. 0 and 1 are the divisor latch while LCR.DLAB is set; 2 reads as IIR and writes as FCR. */
export const REG = { data: 0, ier: 1, iirFcr: 2, lcr: 3, mcr: 4, lsr: 5, msr: 6, scr: 7 } as const;
export const REGISTER_COUNT = 8;

export const IER = { rda: 0x01, thre: 0x02, rls: 0x04, modem: 0x08 } as const;
/** Writable bits of IER; a 16550A reads the others as zero. */
export const IER_MASK = 0x0f;

/** Interrupt identification, bits 3-0 (data sheet, 8.6, table V), highest priority first. */
export const IIR = {
  rls: 0x06,
  rda: 0x04,
  timeout: 0x0c,
  thre: 0x02,
  modem: 0x00,
  none: 0x01,
  /** both set while the FIFOs are enabled */
  fifosEnabled: 0xc0,
} as const;

export const FCR = { enable: 0x01, resetReceiver: 0x02, trigger: 0xc0 } as const;
/** Receiver FIFO trigger levels in bytes, by FCR bits 7-6. */
export const TRIGGER_LEVELS = [1, 4, 8, 14] as const;
export const FIFO_SIZE = 16;

export const LCR = { dlab: 0x80 } as const;

export const MCR = { dtr: 0x01, rts: 0x02, out1: 0x04, out2: 0x08, loop: 0x10 } as const;
/** Writable bits of MCR; a 16550A reads the others as zero. */
export const MCR_MASK = 0x1f;

export const LSR = { dataReady: 0x01, overrun: 0x02, thre: 0x20, temt: 0x40 } as const;

/** MSR: the low nibble says what has changed since the last read, the high nibble how the lines are. */
export const MSR = {
  dcts: 0x01,
  ddsr: 0x02,
  teri: 0x04,
  ddcd: 0x08,
  cts: 0x10,
  dsr: 0x20,
  ri: 0x40,
  dcd: 0x80,
} as const;
