// Runs where the guests run: a command in a throw-away VM, and the bare boot of the same guest to its agent, in turn.
// Plain JavaScript with nothing to load: `node measure.mjs JSON`, prints one JSON line for each run.
import { spawn, spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { connect } from 'node:net';

const { run, warm, bare, socket, prepare, marker, runs, limitMs } = JSON.parse(process.argv[2]);
/** How often the agent is asked whether it is there. */
const ASK_MS = 20;

const now = () => Number(process.hrtime.bigint()) / 1e6;

/** Resolves at the end of a process, with what it said and when it said the marker. */
function watch(command, onStart) {
  return new Promise((resolve) => {
    const start = now();
    const [program, ...args] = command;
    const child = spawn(program, args, { stdio: ['ignore', 'pipe', 'pipe'] });
    const timer = setTimeout(() => child.kill('SIGKILL'), limitMs);
    let said = '';
    let errors = '';
    let output = null;
    child.stdout.on('data', (chunk) => {
      said += chunk;
      if (output === null && said.includes(marker)) output = now() - start;
    });
    child.stderr.on('data', (chunk) => (errors += chunk));
    child.on('error', (error) => (errors += String(error)));
    child.on('close', () => {
      clearTimeout(timer);
      resolve({ output, end: now() - start, said, errors });
    });
    onStart?.(child, start);
  });
}

/** From the start of tsvm to the command's output, and to tsvm's end with nothing left. */
async function runCommand(name, command) {
  const { output, end, said, errors } = await watch(command);
  const json = errors.trim().split('\n').at(-1) ?? '';
  const phases = output !== null && json.startsWith('{') ? JSON.parse(json) : null;
  return {
    name,
    ok: phases !== null,
    output,
    end,
    phases,
    ...(phases === null && { tail: said + errors }),
  };
}

/** From the start of tsvm to the agent's answer. */
async function bootBare() {
  rmSync(socket, { force: true });
  spawnSync(prepare[0], prepare.slice(1), { stdio: ['ignore', 'ignore', 'inherit'] });
  let ready = null;
  const { said, errors } = await watch(bare, (child, start) => {
    const ask = () => {
      if (child.exitCode !== null || child.signalCode !== null) return;
      const client = connect(socket);
      const asking = setInterval(() => client.write('{"execute":"guest-ping"}\n'), ASK_MS);
      client.on('data', (chunk) => {
        if (ready !== null || !chunk.includes('return')) return;
        ready = now() - start;
        child.kill('SIGTERM');
        setTimeout(() => child.kill('SIGKILL'), 2000).unref();
      });
      client.on('error', () => undefined);
      client.on('close', () => {
        clearInterval(asking);
        if (ready === null) setTimeout(ask, ASK_MS);
      });
    };
    ask();
  });
  const ok = ready !== null;
  return { name: 'bare', ok, output: ready, ...(!ok && { tail: (said + errors).slice(-2000) }) };
}

for (let round = 0; round < runs; round++) {
  // Who goes first changes: the machine's speed drifts.
  const cold = () => runCommand('run', run);
  const order = round % 2 === 0 ? [cold, bootBare] : [bootBare, cold];
  // The first one boots, and leaves what the others go on from.
  order.push(() => runCommand('warm', warm));
  for (const measure of order) console.log(JSON.stringify({ round, ...(await measure()) }));
}
