/** Who listens on a port of this host, for people. */
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { describeProcess } from '../storage/lock-holder.ts';

/** proc(5), /proc/net/tcp: TCP_LISTEN, and what an unconnected UDP socket is shown as */
const LISTENING = { tcp: '0A', udp: '07' } as const;

/** @returns such as `process 1234 (nginx)`; undefined where it is not this user's to know */
export function portHolder(protocol: 'tcp' | 'udp', port: number): string | undefined {
  const sockets = new Set(
    [protocol, `${protocol}6`].flatMap((table) => listeners(table, LISTENING[protocol], port)),
  );
  if (sockets.size === 0) return undefined;
  for (const pid of entriesOf('/proc').filter((name) => /^\d+$/.test(name))) {
    for (const fd of entriesOf(`/proc/${pid}/fd`)) {
      if (sockets.has(targetOf(`/proc/${pid}/fd/${fd}`))) return describeProcess(Number(pid));
    }
  }
  return undefined;
}

/** `socket:[INODE]` of all sockets that listen on a port, on whatever address. */
function listeners(table: string, state: string, port: number): string[] {
  let text: string;
  try {
    text = readFileSync(`/proc/net/${table}`, 'utf8');
  } catch {
    return [];
  }
  const hex = port.toString(16).toUpperCase().padStart(4, '0');
  return text
    .split('\n')
    .map((line) => line.trim().split(/\s+/))
    .filter(([, local, , status]) => local?.endsWith(`:${hex}`) === true && status === state)
    .map((fields) => `socket:[${fields[9] ?? ''}]`);
}

function targetOf(link: string): string {
  try {
    return readlinkSync(link);
  } catch {
    return '';
  }
}

function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
