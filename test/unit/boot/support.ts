import { expect } from 'vitest';
import { e820Map, MIB } from '../../../src/boot/layout.ts';
import { loadLinux, type LinuxOptions, type LoadedKernel } from '../../../src/boot/load.ts';
import { bytesSource } from '../../../src/boot/source.ts';
import { BootError } from '../../../src/boot/types.ts';
import { GuestMemory } from '../../../src/kvm/guest-memory.ts';

export const RSDP = 0xe0000;

export type LoadOptions = Partial<LinuxOptions> & {
  /** RAM in bytes, default 64 MiB */
  readonly ram?: number;
};

/** Loads a kernel file from memory into a machine of its own, or one that was used before. */
export function load(
  kernel: Uint8Array,
  options: LoadOptions = {},
  memory = new GuestMemory([{ base: 0, bytes: new Uint8Array(options.ram ?? 64 * MIB) }]),
): LoadedKernel & { memory: GuestMemory } {
  const ram = memory.size;
  const loaded = loadLinux(memory, {
    kernel: bytesSource('kernel', kernel),
    cmdline: 'console=ttyS0',
    rsdp: RSDP,
    e820: e820Map(ram),
    ...options,
  });
  return { ...loaded, memory };
}

export function initrd(name: string, bytes: Uint8Array): LinuxOptions['kernel'] {
  return bytesSource(name, bytes, 'initrd');
}

/** Expects a BootError: its code, and one line that matches. */
export function expectBootError(action: () => unknown, code: BootError['code'], message: RegExp): void {
  let thrown: unknown;
  try {
    action();
  } catch (error) {
    thrown = error;
  }
  checkBootError(thrown, code, message);
}

export async function expectBootRejection(
  promise: Promise<unknown>,
  code: BootError['code'],
  message: RegExp,
): Promise<void> {
  checkBootError(
    await promise.then(
      () => undefined,
      (error: unknown) => error,
    ),
    code,
    message,
  );
}

function checkBootError(thrown: unknown, code: BootError['code'], message: RegExp): void {
  expect(thrown).toBeInstanceOf(BootError);
  const error = thrown as BootError;
  // both at once, so that a failure shows what was thrown
  expect(`${error.code} ${error.message}`).toMatch(new RegExp(`^${code} `));
  expect(error.message).toMatch(message);
  expect(error.message).not.toContain('\n');
}

/** The text at an address up to its NUL. */
export function stringAt(memory: GuestMemory, address: number): string {
  let length = 0;
  while (memory.readU8(address + length) !== 0) length++;
  return new TextDecoder().decode(memory.read(address, length));
}
