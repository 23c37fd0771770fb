/** The boot sector of FAT12, FAT16 and FAT32 (Microsoft, FAT32 File System Specification 1.03). */
import { latin1, viewOf } from '../bytes.ts';
import { corrupt } from '../error.ts';

export type FatGeometry = {
  readonly bits: 12 | 16 | 32;
  readonly clusterSize: number;
  /** clusters are numbered from 2 to this */
  readonly lastCluster: number;
  /** in bytes from the volume's start, like the others */
  readonly tableAt: number;
  readonly tableSize: number;
  /** of FAT12 and FAT16, like its size; 0 with FAT32 */
  readonly rootAt: number;
  readonly rootSize: number;
  /** FAT32: the cluster that the root directory begins at */
  readonly rootCluster: number;
  /** of cluster 2 */
  readonly dataAt: number;
  readonly uuid: string;
  readonly label: string;
};

const isPowerOfTwo = (value: number): boolean => value !== 0 && (value & (value - 1)) === 0;

/** Whether a first sector can be one of a FAT: other boot sectors have code or nothing in these places. */
export function looksLikeFat(sector: Uint8Array): boolean {
  const view = viewOf(sector);
  const sectorSize = view.getUint16(11, true);
  const media = view.getUint8(21);
  return (
    (sector[0] === 0xeb || sector[0] === 0xe9) &&
    isPowerOfTwo(sectorSize) &&
    sectorSize >= 512 &&
    sectorSize <= 4096 &&
    isPowerOfTwo(view.getUint8(13)) &&
    view.getUint16(14, true) !== 0 &&
    (media === 0xf0 || media >= 0xf8) &&
    [1, 2].includes(view.getUint8(16)) &&
    (view.getUint16(22, true) !== 0 || view.getUint32(36, true) !== 0)
  );
}

/**
 * @param sector the first 512 bytes
 * @param size of the volume in bytes
 */
export function readBootSector(sector: Uint8Array, size: number): FatGeometry {
  if (!looksLikeFat(sector)) throw corrupt('the boot sector is none of a FAT');
  const view = viewOf(sector);
  const sectorSize = view.getUint16(11, true);
  const clusterSize = view.getUint8(13) * sectorSize;
  const tableCount = view.getUint8(16);
  const rootSize = view.getUint16(17, true) * 32;
  const sectors = view.getUint16(19, true) || view.getUint32(32, true);
  const tableSectors = view.getUint16(22, true) || view.getUint32(36, true);
  const tableAt = view.getUint16(14, true) * sectorSize;
  const tableSize = tableSectors * sectorSize;
  const rootAt = tableAt + tableCount * tableSize;
  const dataAt = rootAt + Math.ceil(rootSize / sectorSize) * sectorSize;
  if (sectors * sectorSize > size || dataAt > sectors * sectorSize)
    throw corrupt(`FAT: ${sectors} sectors of ${sectorSize} bytes, but the volume has ${size} bytes`);

  // The number of clusters alone tells the three apart.
  const clusters = Math.floor((sectors * sectorSize - dataAt) / clusterSize);
  const bits = clusters < 4085 ? 12 : clusters < 65525 ? 16 : 32;
  const inTable = Math.floor((tableSize * 8) / bits) - 2;
  const extended = bits === 32 ? 64 : 36;
  const hasLabel = sector[extended + 2] === 0x29;
  const serial = view
    .getUint32(extended + 3, true)
    .toString(16)
    .toUpperCase()
    .padStart(8, '0');
  const label = latin1(sector.subarray(extended + 7, extended + 18)).trimEnd();
  return {
    bits,
    clusterSize,
    lastCluster: 1 + Math.max(0, Math.min(clusters, inTable)),
    tableAt,
    tableSize,
    rootAt,
    rootSize: bits === 32 ? 0 : rootSize,
    rootCluster: bits === 32 ? view.getUint32(44, true) : 0,
    dataAt,
    uuid: hasLabel ? `${serial.slice(0, 4)}-${serial.slice(4)}` : '',
    label: hasLabel && label !== 'NO NAME' ? label : '',
  };
}
