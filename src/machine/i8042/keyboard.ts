import { BREAK, toSet1 } from './scancodes.ts';
import { KEYBOARD_BUFFER, type KeyboardState } from './state.ts';

/** Commands to and replies of the keyboard (IBM PS/2 Technical Reference, "101- and 102-Key Keyboards"). */
const COMMAND = {
  setLeds: 0xed,
  echo: 0xee,
  scanCodeSet: 0xf0,
  identify: 0xf2,
  setRate: 0xf3,
  enable: 0xf4,
  disable: 0xf5,
  setDefaults: 0xf6,
  resend: 0xfe,
  reset: 0xff,
} as const;
const ACK = 0xfa;
const RESEND = 0xfe;
const SELF_TEST_PASSED = 0xaa;
const ID = [0xab, 0x83] as const;

/** 10.9 characters a second after half a second */
const DEFAULT_RATE = 0x2b;

/** An MF2 keyboard with scan code sets 1 and 2, without the per-key settings of set 3. */
export class Keyboard {
  #state: KeyboardState = powerOn();

  reset(): void {
    this.#state = powerOn();
  }

  /** Scroll, num and caps lock in bits 0 to 2. */
  get leds(): number {
    return this.#state.leds;
  }

  /** Sends key codes of set 2, all or nothing. False where scanning is off or the keyboard's buffer is too full. */
  type(codes: readonly number[]): boolean {
    const { scanning, codes: waiting } = this.#state;
    if (!scanning || waiting.length + codes.length > KEYBOARD_BUFFER) return false;
    waiting.push(...codes.map((code) => code & 0xff));
    return true;
  }

  /** The next byte for the controller. */
  take(): number | undefined {
    const state = this.#state;
    const byte = state.replies.shift() ?? this.#takeCode();
    if (byte !== undefined && byte !== RESEND) state.last = byte;
    return byte;
  }

  #takeCode(): number | undefined {
    const { codes, set } = this.#state;
    const code = codes.shift();
    if (code === undefined || set === 2) return code;
    if (code !== BREAK) return toSet1(code);
    const key = codes.shift();
    return key === undefined ? undefined : toSet1(key) | 0x80;
  }

  /** Takes a byte from the controller. A new command ends the replies to the one before. */
  receive(byte: number): void {
    const state = this.#state;
    const awaiting = state.awaiting;
    state.awaiting = null;
    const isParameter = awaiting !== null && byte < COMMAND.setLeds;
    const replies = isParameter ? this.#parameter(awaiting, byte) : this.#command(byte);
    // The command may have been a reset, with a new state.
    this.#state.replies = replies;
  }

  save(): KeyboardState {
    return structuredClone(this.#state);
  }

  /** @param state checked */
  restore(state: KeyboardState): void {
    this.#state = structuredClone(state);
  }

  #command(byte: number): number[] {
    const state = this.#state;
    switch (byte) {
      case COMMAND.setLeds:
      case COMMAND.scanCodeSet:
      case COMMAND.setRate:
        state.awaiting = byte;
        return [ACK];
      case COMMAND.echo:
        return [COMMAND.echo];
      case COMMAND.identify:
        return [ACK, ...ID];
      case COMMAND.enable:
        state.codes = [];
        state.scanning = true;
        return [ACK];
      case COMMAND.disable:
      case COMMAND.setDefaults:
        state.codes = [];
        state.rate = DEFAULT_RATE;
        state.set = 2;
        if (byte === COMMAND.disable) state.scanning = false;
        return [ACK];
      case COMMAND.resend:
        return [state.last];
      case COMMAND.reset:
        this.reset();
        return [ACK, SELF_TEST_PASSED];
      default:
        return [RESEND];
    }
  }

  #parameter(command: number, value: number): number[] {
    const state = this.#state;
    switch (command) {
      case COMMAND.setLeds:
        state.leds = value & 7;
        return [ACK];
      case COMMAND.setRate:
        if (value > 0x7f) return [RESEND];
        state.rate = value;
        return [ACK];
      default:
        if (value === 0) return [ACK, state.set];
        if (value !== 1 && value !== 2) return [RESEND];
        state.codes = [];
        state.set = value;
        return [ACK];
    }
  }
}

function powerOn(): KeyboardState {
  return {
    scanning: true,
    set: 2,
    leds: 0,
    rate: DEFAULT_RATE,
    awaiting: null,
    replies: [],
    codes: [],
    last: 0,
  };
}
