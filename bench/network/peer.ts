import { execa } from 'execa';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';

/** What a card and the peer are the ends of. */
export type Link =
  { readonly kind: 'stream'; readonly socket: string } | { readonly kind: 'tap'; readonly name: string };

/** A tap that stays until it is deleted, with nothing of this host's own on it. Needs CAP_NET_ADMIN. */
export async function makeTap(name: string): Promise<{ remove(): Promise<void> }> {
  await execa('ip', ['tuntap', 'add', 'dev', name, 'mode', 'tap', 'vnet_hdr']);
  try {
    await writeFile(`/proc/sys/net/ipv6/conf/${name}/disable_ipv6`, '1').catch(() => undefined);
    await execa('ip', ['link', 'set', name, 'up']);
  } catch (error) {
    await execa('ip', ['link', 'del', name]);
    throw error;
  }
  return {
    remove: async () => {
      await execa('ip', ['link', 'del', name]);
    },
  };
}

/** Builds the peer and starts it at its end; returns what ends it. */
export async function startPeer(folder: string, link: Link): Promise<{ close(): void }> {
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
  const args = link.kind === 'stream' ? [link.socket] : ['tap', link.name];
  const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`the peer ended with status ${String(code)}`);
  });
  await Promise.race([once(child.stdout, 'data'), failed]);
  failed.catch(() => undefined);
  return { close: () => void child.kill() };
}
