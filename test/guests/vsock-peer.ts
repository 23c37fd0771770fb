import { execa } from 'execa';
import { stat, truncate } from 'node:fs/promises';
import { join } from 'node:path';

const SECTOR = 512;

/**
 * Builds the program with which guests use AF_VSOCK sockets: static, and a whole number of sectors long, so that it can
 * go into a guest as a raw disk. @throws what the compiler says
 */
export async function buildVsockPeer(folder: string): Promise<string> {
  const program = join(folder, 'vsock-peer');
  const source = join(import.meta.dirname, 'vsock-peer/vsock-peer.c');
  await execa('cc', ['-std=gnu11', '-O2', '-static', '-Wall', '-Wextra', '-Werror', '-o', program, source]);
  await truncate(program, Math.ceil((await stat(program)).size / SECTOR) * SECTOR);
  return program;
}
