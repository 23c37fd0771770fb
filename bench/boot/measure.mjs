// Runs where the guests run: starts each VMM in turn, and notes when its process started, when it first entered the
// guest (KVM's own tracepoint, so that both are measured alike) and when the guest's init spoke.
// Plain JavaScript with nothing to load: `node measure.mjs JSON`, prints one JSON line for each run.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { spawnSync } from 'node:child_process';

const TRACING = '/sys/kernel/tracing';
const { contenders, marker, runs, limitMs } = JSON.parse(process.argv[2]);

/** Arms the tracepoint for one hit: with `traceoff:1` the buffer keeps the first entry of all. */
function armTrace() {
  if (!existsSync(`${TRACING}/events/kvm`)) return false;
  try {
    const event = `${TRACING}/events/kvm/kvm_entry`;
    writeFileSync(`${event}/enable`, '0');
    writeFileSync(`${event}/trigger`, '!traceoff:1');
    writeFileSync(`${TRACING}/trace`, '');
    writeFileSync(`${TRACING}/trace_clock`, 'mono');
    writeFileSync(`${TRACING}/tracing_on`, '1');
    writeFileSync(`${event}/trigger`, 'traceoff:1');
    writeFileSync(`${event}/enable`, '1');
    return true;
  } catch {
    return false;
  }
}

/** Milliseconds on the monotonic clock of the first entry, or null. */
function readTrace() {
  const line = readFileSync(`${TRACING}/trace`, 'utf8')
    .split('\n')
    .find((text) => text.includes('kvm_entry:'));
  writeFileSync(`${TRACING}/events/kvm/kvm_entry/enable`, '0');
  const seconds = /\s(\d+\.\d+): kvm_entry/.exec(line ?? '')?.[1];
  return seconds === undefined ? null : Number(seconds) * 1000;
}

const now = () => Number(process.hrtime.bigint()) / 1e6;

function run({ name, command, args, env }) {
  return new Promise((resolve) => {
    const traced = armTrace();
    const start = now();
    const child = spawn(command, args, {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let output = '';
    let errors = '';
    let init;
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
    const take = (chunk) => {
      output += chunk;
      if (init === undefined && output.includes(marker)) {
        init = now();
        // It has told what it was started for; QEMU's microvm would not end by itself.
        setTimeout(() => child.kill('SIGTERM'), 50);
      }
    };
    child.stdout.on('data', take);
    child.stderr.on('data', (chunk) => {
      errors += chunk;
      take(chunk);
    });
    child.on('error', (error) => (output += String(error)));
    child.on('close', () => {
      clearTimeout(timer);
      const entry = traced ? readTrace() : null;
      const stats = /^device +reads[\s\S]*/m.exec(errors)?.[0].trimEnd();
      resolve({
        name,
        ok: init !== undefined,
        init: init === undefined ? null : init - start,
        entry: entry === null ? null : entry - start,
        ...(init === undefined && { tail: output.slice(-2000) }),
        ...(stats !== undefined && { stats }),
      });
    });
  });
}

if (!existsSync(`${TRACING}/events`)) spawnSync('mount', ['-t', 'tracefs', 'tracefs', TRACING]);
for (let i = 0; i < runs; i++) {
  // in turn, and who goes first changes: the machine's speed drifts
  const order = i % 2 === 0 ? contenders : [...contenders].reverse();
  for (const contender of order) console.log(JSON.stringify({ round: i, ...(await run(contender)) }));
}
