import { gzipSync } from 'node:zlib';
import { describe, expect, test } from 'vitest';
import { bytesSource } from '../../../src/boot/source.ts';
import { unpackKernel, type UnpackedKernel } from '../../../src/boot/unpack.ts';
import {
  buildBzImage,
  concat,
  lz4Literals,
  pattern,
  sampleVmlinux,
  withSize,
} from '../../support/kernels.ts';
import { expectBootRejection } from './support.ts';
import { compress } from './tools.ts';

const vmlinux = sampleVmlinux();

function unpack(file: Uint8Array, payload = true): Promise<UnpackedKernel> {
  return unpackKernel(bytesSource('kernel', file), payload);
}

/** A Zstandard frame with one raw block, made without a compressor (RFC 8878, 3.1.1). */
function zstdRaw(bytes: Uint8Array): Uint8Array {
  const head = new Uint8Array(12);
  const view = new DataView(head.buffer);
  view.setUint32(0, 0xfd2fb528, true);
  // single segment, content size in 4 bytes
  view.setUint8(4, 0xa0);
  view.setUint32(5, bytes.length, true);
  const block = (bytes.length << 3) | 1;
  head.set([block & 0xff, (block >> 8) & 0xff, block >> 16], 9);
  return concat([head, bytes]);
}

describe('the kernel in a bzImage', () => {
  test('packed with gzip, whose own trailer is the size', async () => {
    const kernel = buildBzImage({ payload: gzipSync(vmlinux) });
    expect(await unpack(kernel)).toEqual({ bytes: Buffer.from(vmlinux) });
  });

  test('packed with lz4', async () => {
    const kernel = buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length) });
    expect((await unpack(kernel)).bytes).toEqual(vmlinux);
  });

  test('packed with zstd', async () => {
    const kernel = buildBzImage({ payload: withSize(zstdRaw(vmlinux), vmlinux.length) });
    expect(Buffer.compare((await unpack(kernel)).bytes, vmlinux)).toBe(0);
  });

  test('packed with xz and its x86 filter', async (context) => {
    const packed = compress(context, 'xz', ['--check=crc32', '--x86', '--lzma2=dict=32MiB', '-c'], vmlinux);
    const kernel = buildBzImage({ payload: withSize(packed, vmlinux.length) });
    expect(Buffer.compare((await unpack(kernel)).bytes, vmlinux)).toBe(0);
  });

  test('stays packed where nobody asks for it', async () => {
    const kernel = buildBzImage({ payload: gzipSync(vmlinux) });
    expect(await unpack(kernel, false)).toEqual({ bytes: kernel });
  });

  test.each([
    ['bzip2', [0x42, 0x5a, 0x68]],
    ['lzma', [0x5d, 0, 0]],
    ['lzo', [0x89, 0x4c, 0x5a, 0x4f]],
    ['an unknown format', [1, 2, 3, 4]],
  ])('stays packed with a note where it is packed with %s', async (what, magic) => {
    const kernel = buildBzImage({ payload: Uint8Array.of(...magic, 0, 0, 0, 0, 0, 0) });
    const { bytes, note } = await unpack(kernel);
    expect(bytes).toEqual(kernel);
    expect(note).toBe(`the kernel in kernel is packed with ${what}, left packed`);
  });

  test('stays packed with a note where the header does not say where it is', async () => {
    const { note } = await unpack(buildBzImage());
    expect(note).toMatch(/does not say where/);
  });

  test('is refused where it is not the kernel that its size field tells of', async () => {
    const kernel = buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length + 1) });
    await expectBootRejection(unpack(kernel), 'EKERNEL_PACKED', /unpacks to \d+ bytes, not to \d+/);
  });

  test('is refused where it is bigger than its size field says', async () => {
    const kernel = buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length - 1) });
    await expectBootRejection(unpack(kernel), 'EKERNEL_PACKED', /more than it may/);
  });

  test('is refused unpacked where its size field is above 1 GiB', async () => {
    const kernel = buildBzImage({ payload: withSize(lz4Literals(vmlinux), 2 ** 30 + 1) });
    await expectBootRejection(unpack(kernel), 'EKERNEL_PACKED', /would unpack to 1025 MiB/);
  });

  test('is refused where it is no ELF file', async () => {
    const kernel = buildBzImage({ payload: withSize(lz4Literals(buildBzImage()), buildBzImage().length) });
    await expectBootRejection(unpack(kernel), 'EKERNEL_PACKED', /is no ELF file/);
  });

  test('is refused where the header puts it outside of the file', async () => {
    const kernel = buildBzImage({ payload: gzipSync(vmlinux) });
    new DataView(kernel.buffer).setUint32(0x24c, kernel.length, true);
    await expectBootRejection(unpack(kernel), 'EKERNEL_FORMAT', /outside of/);
  });
});

describe('a file packed as a whole', () => {
  test('unpacks to the vmlinux in it', async () => {
    expect(Buffer.compare((await unpack(gzipSync(vmlinux))).bytes, vmlinux)).toBe(0);
  });

  test('unpacks to the vmlinux in the bzImage in it', async () => {
    const kernel = gzipSync(buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length) }));
    expect((await unpack(kernel)).bytes).toEqual(vmlinux);
  });

  test('unpacks to the bzImage in it where that is to stay packed', async () => {
    const bzImage = buildBzImage({ payload: withSize(lz4Literals(vmlinux), vmlinux.length) });
    expect(Buffer.compare((await unpack(gzipSync(bzImage), false)).bytes, bzImage)).toBe(0);
  });

  test.for([
    ['zstd', ['-q', '-c', '-19']],
    ['zstd', ['-q', '-c', '-22', '--ultra', '--long=27']],
    ['xz', ['-c']],
    ['lz4', ['-q', '-c']],
    ['lz4', ['-q', '-c', '-l']],
  ] as const)('by %s %s', async ([tool, args], context) => {
    const packed = compress(context, tool, [...args], vmlinux);
    expect(Buffer.compare((await unpack(packed)).bytes, vmlinux)).toBe(0);
  });

  test('three times is refused', async () => {
    const packed = gzipSync(gzipSync(gzipSync(vmlinux)));
    await expectBootRejection(unpack(packed), 'EKERNEL_PACKED', /packed more than twice/);
  });

  test('that holds no kernel is refused', async () => {
    const packed = gzipSync('just some text');
    await expectBootRejection(unpack(packed), 'EKERNEL_FORMAT', /^kernel is no kernel: it is a text file/);
  });
});

describe('damaged data is refused', () => {
  const damage = async (packed: Uint8Array, tool: string): Promise<void> => {
    const message = new RegExp(`^kernel is damaged, its ${tool} data does not unpack`);
    await expectBootRejection(unpack(packed.subarray(0, packed.length >> 1)), 'EKERNEL_PACKED', message);
    const flipped = packed.slice();
    flipped[packed.length >> 1]! ^= 0x10;
    await expectBootRejection(unpack(flipped), 'EKERNEL_PACKED', message);
  };
  const content = concat([vmlinux, pattern(200_000, 5)]);

  test('gzip', () => damage(gzipSync(content), 'gzip'));

  test.for(['xz', 'zstd', 'lz4'] as const)('%s', (tool, context) =>
    damage(compress(context, tool, ['-q', '-c'], content), tool),
  );
});

test('a good kernel unpacks with zstd after many damaged ones', async (context) => {
  const packed = compress(context, 'zstd', ['-q', '-c'], concat([vmlinux, pattern(2_000_000, 5)]));
  for (let i = 0; i < 30; i++) {
    const damaged = packed.slice();
    damaged[20 + i * 50]! ^= 0x55;
    await expectBootRejection(unpack(damaged), 'EKERNEL_PACKED', /corrupt|too early|frames/);
  }
  expect((await unpack(packed)).bytes).toHaveLength(vmlinux.length + 2_000_000);
});

test('zstd frames without their size, several and a skippable one, unpack in order', async (context) => {
  const half = vmlinux.length >> 1;
  const args = ['-q', '-c', '--no-content-size', '--no-check'];
  const skippable = Uint8Array.of(0x53, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3);
  const packed = concat([
    compress(context, 'zstd', args, vmlinux.subarray(0, half)),
    skippable,
    compress(context, 'zstd', args, vmlinux.subarray(half)),
  ]);
  expect(Buffer.compare((await unpack(packed)).bytes, vmlinux)).toBe(0);
});

describe('a bomb is refused at the limit', () => {
  const bomb = (context: Parameters<typeof compress>[0], tool: string, args: string[]): Uint8Array =>
    compress(context, tool, args, new Uint8Array(64 * 2 ** 20));

  test.for([
    ['gzip', ['-c', '-9']],
    ['xz', ['-c', '-1']],
    ['zstd', ['-q', '-c', '-1']],
    ['lz4', ['-q', '-c', '-l']],
  ] as const)('%s', async ([tool, args], context) => {
    const packed = bomb(context, tool, [...args]);
    const payload = tool === 'gzip' ? packed : withSize(packed, 4096);
    if (tool === 'gzip')
      new DataView(payload.buffer, payload.byteOffset).setUint32(payload.length - 4, 4096, true);
    await expectBootRejection(unpack(buildBzImage({ payload })), 'EKERNEL_PACKED', /more than it may/);
  });
});

test('without the xz tool a kernel packed with it stays packed, and the note names the package', async (context) => {
  const packed = compress(context, 'xz', ['-c'], vmlinux);
  const kernel = buildBzImage({ payload: withSize(packed, vmlinux.length) });
  const path = process.env['PATH'];
  process.env['PATH'] = '/nonexistent';
  try {
    const { bytes, note } = await unpack(kernel);
    expect(bytes).toEqual(kernel);
    expect(note).toMatch(/packed with xz: it takes the xz tool, in the package xz-utils/);
    await expectBootRejection(unpack(packed), 'EKERNEL_UNSUPPORTED', /package xz-utils/);
  } finally {
    process.env['PATH'] = path;
  }
});
