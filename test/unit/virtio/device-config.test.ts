import { describe, expect, test } from 'vitest';
import { DeviceConfig, noConfig } from '../../../src/virtio/device-config.ts';

function fixture(): {
  config: DeviceConfig<'wide' | 'mac' | 'mode' | 'flag'>;
  written: string[];
  told: boolean[];
} {
  const written: string[] = [];
  const told: boolean[] = [];
  const config = new DeviceConfig<'wide' | 'mac' | 'mode' | 'flag'>(
    [
      { name: 'wide', width: 8 },
      { name: 'mac', width: 6 },
      { name: 'mode', width: 2, writable: true },
      { name: 'flag', width: 1, writable: true },
    ],
    (name) => written.push(name),
  );
  config.listener = (byDevice) => told.push(byDevice);
  return { config, written, told };
}

describe('fields', () => {
  test('lie one behind the other, little-endian', () => {
    const { config } = fixture();
    config.set({ wide: 0x0001_0203_0405_0607, mac: Uint8Array.of(1, 2, 3, 4, 5, 6), mode: 0x1234, flag: 1 });
    expect([...config.bytes]).toEqual([7, 6, 5, 4, 3, 2, 1, 0, 1, 2, 3, 4, 5, 6, 0x34, 0x12, 1]);
  });

  test('are read back', () => {
    const { config } = fixture();
    config.set({ wide: 2 ** 53 - 1, mode: 0xffff, mac: Uint8Array.of(1, 2, 3, 4, 5, 6) });
    expect(config.get('wide')).toBe(2 ** 53 - 1);
    expect(config.get('mode')).toBe(0xffff);
    expect([...config.getBytes('mac')]).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test.each([
    { mode: 0x10000 },
    { mode: -1 },
    { mode: 1.5 },
    { wide: 2 ** 53 },
    { mac: Uint8Array.of(1) },
    { mac: 5 },
  ])('refuse %j', (values) => {
    expect(() => fixture().config.set(values)).toThrow(RangeError);
  });

  test('of no device are none', () => {
    expect(noConfig().bytes).toHaveLength(0);
  });
});

describe('changes', () => {
  test('by the device are told once, however many fields', () => {
    const { config, told } = fixture();
    config.set({ wide: 1, mode: 2 });
    expect(told).toEqual([true]);
  });

  test('by the driver reach writable fields alone, and name them', () => {
    const { config, told, written } = fixture();
    config.driverWrite(12, 4, 0xaabb_ccdd);
    expect(config.get('mode')).toBe(0xaabb);
    expect([...config.getBytes('mac')]).toEqual([0, 0, 0, 0, 0, 0]);
    expect(written).toEqual(['mode']);
    expect(told).toEqual([false]);
  });

  test('by the driver to parts of fields change these parts', () => {
    const { config, written } = fixture();
    config.set({ mode: 0x1234 });
    config.driverWrite(15, 2, 0x0199);
    expect(config.get('mode')).toBe(0x9934);
    expect(config.get('flag')).toBe(1);
    expect(written).toEqual(['mode', 'flag']);
  });

  test('by the driver outside the fields are none', () => {
    const { config, told } = fixture();
    config.driverWrite(0, 4, 1);
    config.driverWrite(17, 4, 1);
    config.driverWrite(4000, 1, 1);
    expect(told).toEqual([]);
  });
});
