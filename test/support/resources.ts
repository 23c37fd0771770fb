import { readdirSync, readFileSync } from 'node:fs';

/** What this process has of the host. */
export type Resources = { readonly threads: number; readonly fds: number; readonly maps: number };

export function resources(): Resources {
  return {
    threads: readdirSync('/proc/self/task').length,
    fds: readdirSync('/proc/self/fd').length,
    // named by what is behind them: the heap's own mappings come and go
    maps: readFileSync('/proc/self/maps', 'utf8')
      .split('\n')
      .filter((line) => /kvm|memfd|tsvm/.test(line) && !line.endsWith('.node')).length,
  };
}

/** Size of this process's address space in bytes. */
export function addressSpace(): number {
  return Number(readFileSync('/proc/self/statm', 'utf8').split(' ')[0]) * 4096;
}
