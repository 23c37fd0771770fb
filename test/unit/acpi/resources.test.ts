import { describe, expect, it } from 'vitest';
import * as resource from '../../../src/machine/acpi/resources.ts';

describe('resource descriptors', () => {
  it('end with an end tag', () => {
    expect([...resource.resourceTemplate(resource.irq(4))]).toEqual([
      0x11, 0x08, 0x0a, 0x05, 0x22, 0x10, 0x00, 0x79, 0x00,
    ]);
  });

  it.each([-1, 16, 1.5])('refuse ISA interrupt %d', (line) => {
    expect(() => resource.irq(line)).toThrow(RangeError);
  });

  it('refuse ports beyond 64 Ki', () => {
    expect(() => resource.ioPorts(0x1_0000, 1)).toThrow(RangeError);
  });

  it('refuse more than 255 ports in one descriptor', () => {
    expect(() => resource.ioPorts(0, 256)).toThrow(RangeError);
  });

  it('refuse an empty window', () => {
    expect(() => resource.dwordMemoryWindow({ base: 0xc000_0000, size: 0 })).toThrow(RangeError);
  });

  it('refuse fixed memory above 4 GiB', () => {
    expect(() => resource.memory32(2 ** 32, 0x1000)).toThrow(RangeError);
  });
});
