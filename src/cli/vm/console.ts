import { connect } from 'node:net';
import { once } from 'node:events';
import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { ESCAPE_BYTE } from '../escape.ts';
import { enterRawMode } from '../terminal.ts';
import { addVerb, type Done } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

const HELP = `
Ctrl-] leaves the console; the VM goes on. Several may be attached at once. What the console has said last comes first.
Where standard input is not a terminal, all of it goes to the guest, and the console is left at its end.`;

/** `tsvm console`: the terminal becomes the VM's console. */
export function addConsole(program: Command, done: Done): void {
  addVerb(program, 'console', "connect the terminal to a VM's console", ['tsvm console web'])
    .argument('<name>', NAME_HELP)
    .addHelpText('after', HELP)
    .action(async (name: string) => {
      const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
      using connection = new VmConnection(openStore(), name);
      const socket = connect({ path: connection.consolePath, allowHalfOpen: true });
      await once(socket, 'connect');
      const { stdin, stdout, stderr } = process;
      const raw = stdin.isTTY ? enterRawMode(stdin, process) : undefined;
      if (raw !== undefined) stderr.write(`tsvm: the console of '${name}'; Ctrl-] leaves it\r\n`);
      const left = new AbortController();
      const leave = (): void => {
        left.abort();
        socket.destroy();
      };
      stdin.on('data', (data: Buffer) => {
        const at = raw === undefined ? -1 : data.indexOf(ESCAPE_BYTE);
        if (at >= 0) {
          socket.write(data.subarray(0, at), leave);
        } else if (!socket.write(data)) {
          stdin.pause();
          socket.once('drain', () => stdin.resume());
        }
      });
      // What the guest still answers is read on; the VM's end, or another's kill, ends it.
      stdin.on('end', () => socket.end());
      socket.on('data', (data: Buffer) => stdout.write(data));
      for (const signal of ['SIGTERM', 'SIGHUP', 'SIGINT'] as const) process.once(signal, leave);
      socket.on('error', () => undefined);
      try {
        await once(socket, 'close');
      } finally {
        raw?.restore();
        stdin.pause();
      }
      if (raw !== undefined)
        stderr.write(left.signal.aborted ? '\r\n' : `\r\ntsvm: the VM '${name}' has ended\n`);
      done(EXIT.ok);
    });
}
