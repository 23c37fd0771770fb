/**
 * The core of `tsvm run` with an echo guest, as a program of its own: what the tests start in a pseudo terminal.
 * The guest says READY and the process id, echoes, and ends at a command typed: `power` powers off, `panic`
 * crashes, `throw` throws in tsvm itself, `flood` says 800 MiB and then DONE on standard error.
 */
import { runSession } from '../../../../src/cli/run-session.ts';
import { EchoVm } from './echo-vm.ts';

const vm = new EchoVm();

function flood(times: number): void {
  if (times === 0) {
    process.stderr.write('DONE\n');
    return;
  }
  vm.flood();
  setImmediate(flood, times - 1);
}

const ignore = vm.serial.onData(() => {
  const typed = vm.receivedText;
  if (typed.endsWith('power')) vm.end({ reason: 'poweroff', message: '' });
  if (typed.endsWith('panic')) vm.end({ reason: 'panic', message: 'the guest panicked' });
  if (typed.endsWith('throw')) {
    setImmediate(() => {
      throw new Error('a fault in tsvm');
    });
  }
  if (typed.endsWith('flood')) {
    ignore();
    flood(50);
  }
});
setTimeout(() => vm.say(`READY ${process.pid}\r\n`), 50);

const [timeout] = process.argv.slice(2);
const code = await runSession(
  {
    start: () => Promise.resolve(vm),
    options: { kernel: 'vmlinuz' },
    ...(timeout !== undefined && { timeout: Number(timeout) }),
  },
  {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    process,
    stopProcess: () => process.kill(process.pid, 'SIGSTOP'),
  },
);
process.exit(code);
