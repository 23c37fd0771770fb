import { CMDLINE, CMDLINE_LIMIT, e820Map, PVH_START_INFO } from '../../src/boot/layout.ts';
import { pvhStartInfo } from '../../src/boot/pvh.ts';

/**
 * What a PVH loader leaves in memory besides the program, the start info and the command line, as one piece to be
 * loaded at {@link PVH_START_INFO}: for a VMM whose own loader needs a firmware that not every KVM runs.
 * @param memory guest RAM in bytes
 */
export function pvhBootImage(cmdline: string, memory: number): Uint8Array {
  const line = new TextEncoder().encode(`${cmdline}\0`);
  if (line.length > CMDLINE_LIMIT) throw new RangeError(`a command line has at most ${CMDLINE_LIMIT} bytes`);
  const image = new Uint8Array(CMDLINE + line.length - PVH_START_INFO);
  const info = pvhStartInfo({
    e820: e820Map(memory),
    rsdp: 0,
    cmdline: { base: CMDLINE, size: line.length },
  });
  image.set(info);
  image.set(line, CMDLINE - PVH_START_INFO);
  return image;
}
