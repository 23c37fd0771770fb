/** Which cores share a cache: the first two levels are a core's own, what is beyond belongs to the package. */

import { hasFeature } from './features.ts';
import { bitsFor, vendorOf, withBits, type CpuidTable, type Registers } from './table.ts';

const cacheType = ({ eax }: Registers): number => eax & 0x1f;
const cacheLevel = ({ eax }: Registers): number => (eax >>> 5) & 7;
const FIRST_SHARED_LEVEL = 3;

export function setCacheSharing(table: CpuidTable, vcpus: number): void {
  // Intel counts addressable ids, a power of two (SDM, CPUID leaf 04H); AMD has zeros in this leaf.
  const ids = 2 ** bitsFor(vcpus);
  for (const cache of table.subleaves(4)) {
    if (cacheType(cache) === 0) continue;
    const sharing = cacheLevel(cache) >= FIRST_SHARED_LEVEL ? ids : 1;
    cache.eax = withBits(withBits(cache.eax, 25, 14, sharing - 1), 31, 26, ids - 1);
  }
  if (vendorOf(table) === 'amd') setAmdCaches(table, vcpus);
}

/** AMD APM, volume 3, appendix E, function 8000_001Dh */
function setAmdCaches(table: CpuidTable, vcpus: number): void {
  if (!hasFeature(table, 'topoext')) {
    table.remove(0x8000_001d);
    return;
  }
  const told = table.subleaves(0x8000_001d).filter((cache) => cacheType(cache) !== 0);
  const caches =
    told.length > 0 ? told.map(({ eax, ebx, ecx, edx }) => ({ eax, ebx, ecx, edx })) : legacy(table);
  for (const cache of caches) {
    const sharing = cacheLevel(cache) >= FIRST_SHARED_LEVEL ? vcpus : 1;
    cache.eax = withBits(cache.eax, 25, 14, sharing - 1);
  }
  // Linux reads on until it meets a cache of type 0.
  table.setSubleaves(0x8000_001d, [...caches, {}]);
}

const DATA = 1;
const INSTRUCTIONS = 2;
const UNIFIED = 3;

type Geometry = { lineSize: number; partitions: number; ways: number; size: number };

/** The caches as leaves 0x80000005 and 0x80000006 tell them, for a KVM that has no more. */
function legacy(table: CpuidTable): Registers[] {
  const first = table.find(0x8000_0005);
  const others = table.find(0x8000_0006);
  return [
    first && describe(DATA, 1, firstLevel(first.ecx)),
    first && describe(INSTRUCTIONS, 1, firstLevel(first.edx)),
    others && describe(UNIFIED, 2, { ...upperLevel(others.ecx), size: (others.ecx >>> 16) * 1024 }),
    others && describe(UNIFIED, 3, { ...upperLevel(others.edx), size: (others.edx >>> 18) * 512 * 1024 }),
  ].filter((cache) => cache !== undefined);
}

const FULLY_ASSOCIATIVE = 0xff;

const firstLevel = (value: number): Geometry => ({
  lineSize: value & 0xff,
  partitions: (value >>> 8) & 0xff,
  ways: (value >>> 16) & 0xff,
  size: (value >>> 24) * 1024,
});

/** Codes of associativity in leaf 0x80000006; 9 refers to leaf 0x8000001d, 16 ways is what processors that use it have. */
const WAYS = [0, 1, 2, 3, 4, 6, 8, 0, 16, 16, 32, 48, 64, 96, 128, FULLY_ASSOCIATIVE];

const upperLevel = (value: number) => ({
  lineSize: value & 0xff,
  partitions: (value >>> 8) & 0xf,
  ways: WAYS[(value >>> 12) & 0xf]!,
});

function describe(type: number, level: number, geometry: Geometry): Registers | undefined {
  const { lineSize, partitions, size } = geometry;
  const isFull = geometry.ways === FULLY_ASSOCIATIVE;
  const ways = isFull ? 1 : geometry.ways;
  const sets = isFull ? 1 : size / (lineSize * partitions * ways);
  if (size === 0 || !(sets >= 1 && Number.isFinite(sets))) return undefined;
  const selfInitializing = 1 << 8;
  const fullyAssociative = isFull ? 1 << 9 : 0;
  return {
    eax: type | (level << 5) | selfInitializing | fullyAssociative,
    ebx: ((lineSize - 1) | ((partitions - 1) << 12) | ((ways - 1) << 22)) >>> 0,
    ecx: Math.floor(sets) - 1,
    edx: 0,
  };
}
