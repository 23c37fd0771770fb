import { execa } from 'execa';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { join } from 'node:path';

/** Builds the peer and starts it on a socket; returns what ends it. */
export async function startPeer(folder: string, socket: string): Promise<{ close(): void }> {
  const program = join(folder, 'peer');
  await execa('cc', [
    '-O2',
    '-Wall',
    '-Wextra',
    '-Werror',
    '-o',
    program,
    join(import.meta.dirname, 'peer.c'),
  ]);
  const child = spawn(program, [socket], { stdio: ['ignore', 'pipe', 'inherit'] });
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`the peer ended with status ${String(code)}`);
  });
  await Promise.race([once(child.stdout, 'data'), failed]);
  failed.catch(() => undefined);
  return { close: () => void child.kill() };
}
