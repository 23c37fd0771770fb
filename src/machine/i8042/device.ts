import type { Bus, IrqLine, RegionHandle } from '../../kvm/bus.ts';
import { PORT } from '../../boot/layout.ts';
import { Keyboard } from './keyboard.ts';
import { BREAK, CTRL_ALT_DEL, toSet1 } from './scancodes.ts';
import { checkI8042State, type I8042State, RAM_SIZE } from './state.ts';

const STATUS = { outputFull: 0x01, system: 0x04, command: 0x08, unlocked: 0x10 } as const;

/** The command byte, RAM byte 0. */
const CTR = {
  keyboardInterrupt: 0x01,
  system: 0x04,
  keyboardOff: 0x10,
  auxOff: 0x20,
  translate: 0x40,
} as const;

const COMMAND = {
  readRam: 0x20,
  writeRam: 0x60,
  testAux: 0xa9,
  selfTest: 0xaa,
  testKeyboard: 0xab,
  keyboardOff: 0xad,
  keyboardOn: 0xae,
  readInputPort: 0xc0,
  readOutputPort: 0xd0,
  writeOutputPort: 0xd1,
  writeOutput: 0xd2,
  writeAuxOutput: 0xd3,
  writeAux: 0xd4,
  readTestInputs: 0xe0,
} as const;

const SELF_TEST_PASSED = 0x55;
/** of the auxiliary interface: its clock line is stuck low */
const AUX_ABSENT = 0x01;
/** bit 7: the keyboard is not locked */
const INPUT_PORT = 0x80;
const OUTPUT_PORT = { notReset: 0x01, a20: 0x02, outputFull: 0x10 } as const;

/** What firmware leaves: interrupt and translation on, self test passed, no auxiliary device. */
const CTR_POWER_ON = CTR.keyboardInterrupt | CTR.system | CTR.auxOff | CTR.translate;

export type I8042Options = {
  readonly bus: Bus;
  readonly irq: IrqLine;
  /** the guest pulls the CPU's reset line; may be called again before it takes effect */
  readonly onReset: () => void;
};

/**
 * The PC's keyboard controller with a keyboard, and no auxiliary (mouse) port.
 *
 * Reads of the data port empty the output buffer and are trapped. All else is posted; the status port is read in
 * order behind that, and costs a wait only right after a write.
 */
export class I8042 {
  readonly #irq: IrqLine;
  readonly #onReset: () => void;
  readonly #keyboard = new Keyboard();
  readonly #data: RegionHandle;
  readonly #status: RegionHandle;
  readonly #ram = new Uint8Array(RAM_SIZE);
  #outputPort = 0;
  #awaiting: number | null = null;
  #output = 0;
  #outputFrom: I8042State['outputFrom'] = null;
  #response: number | null = null;
  #breakSeen = false;
  #commandLast = false;

  constructor({ bus, irq, onReset }: I8042Options) {
    this.#irq = irq;
    this.#onReset = onReset;
    this.#data = bus.add({
      name: 'i8042-data',
      space: 'pio',
      base: PORT.i8042Data,
      size: 1,
      reads: 'trap',
      writes: 'posted',
      read: () => this.#readData(),
      write: (_offset, _size, value) => this.#writeData(value),
    });
    this.#status = bus.add({
      name: 'i8042-command',
      space: 'pio',
      base: PORT.i8042Status,
      size: 1,
      reads: 'ordered',
      writes: 'posted',
      write: (_offset, _size, value) => this.#writeCommand(value),
    });
    this.reset();
  }

  /**
   * Types key codes of scan code set 2 as the keyboard sends them (make codes, 0xe0 prefixes, 0xf0 for a break),
   * all or nothing. False where the guest has turned scanning off or has not read what was typed before: the
   * keyboard holds 16 bytes.
   */
  typeScancodes(codes: readonly number[]): boolean {
    const typed = this.#keyboard.type(codes);
    this.#update();
    return typed;
  }

  /** Presses and releases Ctrl-Alt-Del; false as {@link typeScancodes}. */
  ctrlAltDel(): boolean {
    return this.typeScancodes(CTRL_ALT_DEL);
  }

  /** The keyboard's lights: scroll, num and caps lock in bits 0 to 2. */
  get leds(): number {
    return this.#keyboard.leds;
  }

  /** Power-on state. */
  reset(): void {
    this.#keyboard.reset();
    this.#ram.fill(0);
    this.#ram[0] = CTR_POWER_ON;
    this.#outputPort = OUTPUT_PORT.notReset | OUTPUT_PORT.a20;
    this.#awaiting = null;
    this.#output = 0;
    this.#outputFrom = null;
    this.#response = null;
    this.#breakSeen = this.#commandLast = false;
    this.#update();
  }

  close(): void {
    this.#data.remove();
    this.#status.remove();
  }

  save(): I8042State {
    return {
      keyboard: this.#keyboard.save(),
      ram: [...this.#ram],
      outputPort: this.#outputPort,
      awaiting: this.#awaiting,
      output: this.#output,
      outputFrom: this.#outputFrom,
      response: this.#response,
      breakSeen: this.#breakSeen,
      commandLast: this.#commandLast,
    };
  }

  /** @throws DeviceStateError where `data` is not what {@link save} returns, with nothing changed */
  restore(data: unknown): void {
    const state = checkI8042State(data);
    this.#keyboard.restore(state.keyboard);
    this.#ram.set(state.ram);
    this.#outputPort = state.outputPort;
    this.#awaiting = state.awaiting;
    this.#output = state.output;
    this.#outputFrom = state.outputFrom;
    this.#response = state.response;
    this.#breakSeen = state.breakSeen;
    this.#commandLast = state.commandLast;
    this.#update();
  }

  #readData(): number {
    const value = this.#output;
    if (this.#outputFrom !== null) {
      this.#outputFrom = null;
      // The interrupt is an edge, and drivers read one byte an interrupt: the line falls between two bytes.
      this.#irq.set(false);
      this.#update();
    }
    return value;
  }

  #writeData(value: number): void {
    this.#commandLast = false;
    const command = this.#awaiting;
    this.#awaiting = null;
    if (command === null) {
      // A byte for the keyboard turns its interface on.
      this.#ram[0]! &= ~CTR.keyboardOff;
      this.#keyboard.receive(value);
    } else {
      this.#parameter(command, value);
    }
    this.#update();
  }

  #writeCommand(command: number): void {
    this.#commandLast = true;
    this.#awaiting = null;
    // An answer that nobody has read is not taken for the one to this command.
    this.#response = null;
    if (this.#outputFrom === 'controller') {
      this.#outputFrom = null;
      this.#irq.set(false);
    }
    this.#execute(command);
    this.#update();
  }

  #execute(command: number): void {
    if (command >= COMMAND.readRam && command < COMMAND.readRam + RAM_SIZE) {
      this.#response = this.#ram[command - COMMAND.readRam]!;
      return;
    }
    if (command >= COMMAND.writeRam && command < COMMAND.writeRam + RAM_SIZE) {
      this.#awaiting = command;
      return;
    }
    // 0xf0 to 0xff pulse those of the output port's low four lines whose bits are 0; line 0 is the CPU's reset.
    if ((command & 0xf1) === 0xf0) {
      this.#onReset();
      return;
    }
    switch (command) {
      case COMMAND.selfTest:
        this.#ram[0]! |= CTR.system;
        this.#response = SELF_TEST_PASSED;
        break;
      case COMMAND.testKeyboard:
        this.#response = 0;
        break;
      case COMMAND.testAux:
        this.#response = AUX_ABSENT;
        break;
      case COMMAND.keyboardOff:
        this.#ram[0]! |= CTR.keyboardOff;
        break;
      case COMMAND.keyboardOn:
        this.#ram[0]! &= ~CTR.keyboardOff;
        break;
      case COMMAND.readInputPort:
        this.#response = INPUT_PORT;
        break;
      case COMMAND.readOutputPort:
        this.#response = this.#outputPort | (this.#outputFrom === null ? 0 : OUTPUT_PORT.outputFull);
        break;
      case COMMAND.readTestInputs:
        this.#response = 0;
        break;
      case COMMAND.writeOutputPort:
      case COMMAND.writeOutput:
      case COMMAND.writeAuxOutput:
      case COMMAND.writeAux:
        this.#awaiting = command;
        break;
    }
  }

  #parameter(command: number, value: number): void {
    switch (command) {
      case COMMAND.writeOutputPort:
        this.#outputPort = value & ~OUTPUT_PORT.outputFull;
        if (!(value & OUTPUT_PORT.notReset)) this.#onReset();
        break;
      case COMMAND.writeOutput:
        this.#output = value;
        this.#outputFrom = 'keyboard';
        // What was in the buffer is overwritten, and this is a new byte with an interrupt of its own.
        this.#irq.set(false);
        break;
      case COMMAND.writeAuxOutput:
        // Answered at once, but not as a byte of an auxiliary device: so a driver sees without a timeout that there
        // is none.
        this.#response = value;
        break;
      case COMMAND.writeAux:
        // Nothing is there to take it.
        break;
      default:
        this.#ram[command - COMMAND.writeRam] = value;
    }
  }

  /** Fills the output buffer where it is empty, and brings status and interrupt line up to date. */
  #update(): void {
    if (this.#outputFrom === null && this.#response !== null) {
      this.#output = this.#response;
      this.#outputFrom = 'controller';
      this.#response = null;
    }
    const ctr = this.#ram[0]!;
    if (this.#outputFrom === null && !(ctr & CTR.keyboardOff)) {
      const byte = this.#takeFromKeyboard((ctr & CTR.translate) !== 0);
      if (byte !== undefined) {
        this.#output = byte;
        this.#outputFrom = 'keyboard';
      }
    }
    this.#status.shadow[0] =
      STATUS.unlocked |
      (this.#outputFrom === null ? 0 : STATUS.outputFull) |
      (ctr & CTR.system ? STATUS.system : 0) |
      (this.#commandLast ? STATUS.command : 0);
    this.#irq.set(this.#outputFrom !== null && (ctr & CTR.keyboardInterrupt) !== 0);
  }

  #takeFromKeyboard(translate: boolean): number | undefined {
    let byte = this.#keyboard.take();
    if (!translate) return byte;
    if (byte === BREAK) {
      this.#breakSeen = true;
      byte = this.#keyboard.take();
    }
    if (byte === undefined) return undefined;
    const code = toSet1(byte) | (this.#breakSeen ? 0x80 : 0);
    this.#breakSeen = false;
    return code;
  }
}
