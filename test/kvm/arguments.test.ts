import { afterAll, describe, expect, test } from 'vitest';
import { KvmError } from '../../src/kvm/errors.ts';
import { native } from '../../src/kvm/native.ts';
import { longModeVm } from '../support/long-mode.ts';

const { vm, ram, vcpu } = longModeVm([0xf4], { irqchip: true });
const addon = native();
const eventFd = new addon.EventFd();
const timer = new addon.Timer();
const kvm = new addon.Kvm('/dev/kvm');
afterAll(() => {
  vm.close();
  ram.close();
  for (const each of [eventFd, timer, kvm]) each.close();
});

type Callable = (...args: readonly unknown[]) => unknown;

const detached = new Uint8Array(64);
structuredClone(detached, { transfer: [detached.buffer] });
const throwing = {
  get fd(): never {
    throw new Error('from a getter');
  },
  get size(): never {
    throw new Error('from a getter');
  },
};

/** What nobody should pass, and what looks right but is not. */
const ODD: readonly unknown[] = [
  undefined,
  null,
  true,
  -1,
  -0,
  0.5,
  NaN,
  Infinity,
  2 ** 31,
  2 ** 32,
  2 ** 53,
  Number.MAX_SAFE_INTEGER,
  1n,
  -1n,
  2n ** 200n,
  'x',
  '',
  'regs',
  'pio',
  'a\0b',
  'ü'.repeat(5000),
  Symbol('odd'),
  () => 1,
  {},
  [],
  [1, 2, 3],
  new Proxy({}, {}),
  Object.create(null),
  throwing,
  new Uint8Array(0),
  new Uint8Array(7),
  new Uint8Array(2 ** 26),
  new Float64Array(3),
  new DataView(new ArrayBuffer(16)),
  new ArrayBuffer(16),
  new Uint8Array(new SharedArrayBuffer(144)),
  detached,
  eventFd,
  timer,
  kvm,
  vm.native,
  vcpu.native,
  ram.native,
];

const objects: Record<string, object> = {
  EventFd: eventFd,
  Timer: timer,
  Kvm: kvm,
  Vm: vm.native,
  Vcpu: vcpu.native,
  Memory: ram.native,
};

/** Errors that are an answer; anything else is a wrong kind, and a crash would have ended the process. */
const isAnswer = (error: unknown): boolean =>
  error instanceof TypeError ||
  error instanceof RangeError ||
  error instanceof KvmError ||
  (error instanceof Error && error.message === 'from a getter');

function attempt(call: () => unknown): void {
  try {
    call();
  } catch (error) {
    if (!isAnswer(error)) throw new Error(`a wrong kind of error: ${String(error)}`, { cause: error });
  }
}

const methods = Object.entries(objects).flatMap(([name, object]) =>
  Object.getOwnPropertyNames(Object.getPrototypeOf(object) as object)
    .filter((method) => !['constructor', 'close', 'fd', 'size', 'parked', 'resume'].includes(method))
    .map((method) => [`${name}.${method}`, object, method] as const),
);

describe('odd arguments are refused or harmless', () => {
  test.each(methods)('%s', (_, object, method) => {
    const call = (object as Record<string, Callable>)[method]!.bind(object);
    attempt(() => call());
    for (const a of ODD) {
      attempt(() => call(a));
      for (const b of ODD) attempt(() => call(a, b));
      for (const filler of [0, 1, 'regs', new Uint8Array(8)]) attempt(() => call(filler, a, a, a, a, a, a));
    }
  });

  test.each(Object.keys(objects))('the constructor of %s', (name) => {
    const Class = (addon as unknown as Record<string, new (...args: readonly unknown[]) => object>)[name]!;
    for (const odd of ODD) {
      attempt(() => new Class(odd));
      attempt(() => new Class(odd, odd));
      attempt(() => (Class as unknown as Callable)(odd));
    }
  });

  const complete: Record<string, Record<string, unknown>> = {
    'Vm.setup': { identityMapAddress: 0xfeffc000, tssAddress: 0xfeffd000, irqchip: false, pit: false },
    'Vm.setMemory': {
      slot: 9,
      address: 0x40000000,
      size: 4096,
      memory: ram.native,
      offset: 0,
      readOnly: false,
      logDirty: false,
    },
    'Vm.irqfd': { fd: eventFd.fd, gsi: 5, resampleFd: eventFd.fd, remove: true },
    'Vm.ioeventfd': { fd: eventFd.fd, space: 'pio', address: 0x500, size: 2, datamatch: 1, remove: true },
    'Vm.addRegion': {
      space: 'mmio',
      base: 0x50000000,
      size: 8,
      reads: new Uint8Array(8),
      writes: new Uint8Array(1),
      counterHz: 1,
      counterBits: 32,
    },
    Memory: { size: 4096, hugePages: 'none', backing: 'file', path: '/dev/null', shared: false, offset: 0 },
  };

  test.each(Object.keys(complete))('each option of %s', (name) => {
    const options = complete[name]!;
    const [className, method] = name.split('.') as [string, string | undefined];
    const call = (value: unknown): unknown =>
      method === undefined
        ? new addon.Memory(value as never)
        : (objects[className] as Record<string, Callable>)[method]!(value);
    for (const key of Object.keys(options)) {
      for (const odd of ODD) attempt(() => call({ ...options, [key]: odd }));
    }
  });
});

describe('errors name the argument', () => {
  const cases: [string, () => unknown, RegExp][] = [
    ['a missing option', () => vm.native.irqfd({ fd: 3 } as never), /^TypeError: gsi is missing$/],
    ['no options', () => vm.native.setup(undefined as never), /^TypeError: options must be an object$/],
    ['a text for a number', () => vm.native.dirtyLog('0' as never), /^TypeError: slot must be a number$/],
    [
      'a number that is no flag',
      () => vm.native.irqLine(1, 1 as never),
      /^TypeError: level must be a boolean$/,
    ],
    ['a negative number', () => timer.arm(-1), /^RangeError: delay must be a whole number from 0 to/],
    ['a fraction', () => ram.native.window(0.5, 1), /^RangeError: offset must be a whole number/],
    [
      'a wrong name',
      () => vcpu.native.getState('gprs' as never),
      /^RangeError: there is no vCPU state called gprs$/,
    ],
    [
      'a DataView',
      () => vcpu.native.setCpuid(new DataView(new ArrayBuffer(8)) as never),
      /^TypeError: cpuid must/,
    ],
    ['another object', () => new addon.Vm(eventFd as never), /^TypeError: kvm must be a Kvm$/],
    [
      'another object for memory',
      () => vm.native.setMemory({ slot: 1, address: 0, size: 4096, memory: kvm as never, offset: 0 }),
      /^TypeError: memory must be a Memory$/,
    ],
    [
      'an unknown space',
      () => vm.add({ space: 'ram' } as never),
      /^RangeError: space must be pio, mmio or indexed$/,
    ],
    [
      'a shadow without end',
      () =>
        vm.add({
          name: 'x',
          space: 'mmio',
          base: 0x40000000,
          size: 2 ** 32,
          reads: 'shadow',
          writes: 'ignore',
        }),
      /^RangeError: a region with a shadow has at most 256 MiB$/,
    ],
    [
      'ports after the last',
      () => vm.add({ name: 'x', space: 'pio', base: 0xffff, size: 2, reads: 'trap', writes: 'trap' }),
      /^RangeError: port space ends at 0xffff$/,
    ],
    [
      'an unknown mode',
      () => vm.add({ name: 'x', space: 'pio', base: 0, size: 2, reads: 'fast' as never, writes: 'trap' }),
      /^RangeError: reads has an unknown mode$/,
    ],
    [
      'modes for fewer bytes',
      () => vm.add({ name: 'x', space: 'pio', base: 0, size: 4, reads: ['trap', 'trap'], writes: 'trap' }),
      /^RangeError: reads must have one mode, or one for each byte$/,
    ],
  ];

  test.each(cases)('%s', (_, call, message) => {
    let text = 'nothing was thrown';
    try {
      call();
    } catch (error) {
      text = String(error);
    }
    expect(text).toMatch(message);
  });
});
