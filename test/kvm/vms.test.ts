/** VMs as a user has them: the built command line, a process for each VM, and what is left of all that. */
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Random } from '../fuzz/random.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

const vmFolder = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);

/** The VM's console, typed at, until it has said something. */
async function echo(name: string, text: string): Promise<void> {
  const console = home.begin(['console', name]);
  await new Promise<void>((resolve, reject) => {
    let said = '';
    console.stdout.on('data', (data: Buffer) => {
      said += data.toString();
      if (said.includes('ready') && console.stdin.writable) console.stdin.end(text);
      if (said.includes(text)) resolve();
    });
    console.then(() => reject(new Error(`the console has ended: ${said}`)), reject);
  });
  console.kill();
}

test('a VM is created, started, talked to, stopped, started again and deleted', async () => {
  await home.create('web');
  expect(await home.state('web')).toBe('stopped');
  await home.ok('start', 'web');
  expect(await home.state('web')).toBe('running');
  await echo('web', 'hello');
  expect(await home.ok('logs', 'web')).toContain('hello');

  await home.ok('stop', 'web');
  expect(await home.state('web')).toBe('stopped');
  expect(home.processes()).toEqual([]);
  await home.ok('start', 'web');
  await home.ok('delete', '--force', 'web');
  expect(await home.ok('list', '-q')).toBe('');
  expect(home.processes()).toEqual([]);
  expect(readdirSync(join(home.env.TSVM_HOME, 'vms'))).toEqual([]);
});

test('a VM that runs is not started again, renamed or deleted', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  for (const args of [
    ['start', 'web'],
    ['delete', 'web'],
    ['rename', 'web', 'www'],
  ]) {
    const { code, stderr } = await home.tsvm(...args);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^tsvm: the VM 'web' is running/)]);
  }
  expect(await home.state('web')).toBe('running');
});

test('a VM that does not run is neither stopped nor connected to', async () => {
  await home.create('web');
  for (const args of [
    ['stop', 'web'],
    ['kill', 'web'],
    ['console', 'web'],
    ['exec', 'web', '--', 'true'],
  ]) {
    const { code, stderr } = await home.tsvm(...args);
    expect([code, stderr]).toEqual([1, expect.stringMatching(/^tsvm: the VM 'web' is not running/)]);
  }
});

test('a VM whose process was killed by somebody is crashed, and starts again', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const { pid } = JSON.parse(await home.ok('info', '--json', 'web')) as { pid: number };
  process.kill(pid, 'SIGKILL');
  await expect.poll(() => home.state('web')).toBe('crashed');
  await home.ok('start', 'web');
  expect(await home.state('web')).toBe('running');
  await home.ok('kill', 'web');
  expect(await home.state('web')).toBe('stopped');
});

test('a VM that cannot be started says why, and is as it was', async () => {
  await home.create('web');
  const ini = join(vmFolder('web'), 'vm.ini');
  const text = readFileSync(ini, 'utf8');
  writeFileSync(ini, text.replace(/^kernel = .*$/m, 'kernel = /nowhere'));
  const { code, stderr } = await home.tsvm('start', 'web');
  expect([code, stderr]).toEqual([1, expect.stringContaining('/nowhere')]);
  expect(home.processes()).toEqual([]);
  writeFileSync(ini, text.replace(/^cpus = .*$/m, 'cpus = none'));
  expect((await home.tsvm('start', 'web')).stderr).toMatch(/vm\.ini:\d+: 'cpus' is no whole number/);
  expect(await home.ok('list')).toContain('broken');
  writeFileSync(ini, text);
  await home.ok('start', 'web');
});

test('the console is typed at and waited for from outside', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  await home.ok('wait', '--for', '/echo: ready/', '--timeout', '20', 'web');
  await home.ok('send', '--key', 'tab', '--enter', 'web', 'typed');
  await home.ok('wait', '--for', '/typed\\t/', '--timeout', '20', 'web');

  const late = await home.tsvm('wait', '--for', 'login', '--timeout', '1', 'web');
  expect(late.code).toBe(124);
  expect(late.stderr).toMatch(
    /has not come to 'login', not within 1 s; its console's last lines:\necho: ready/,
  );
  // The prompt of a getty, and what the kernel wrote behind it.
  await home.ok('send', 'web', 'Last login: today\nhost login: [  123.925465] kvm: ready');
  await home.ok('wait', '--for', 'login', '--timeout', '20', 'web');
  const stopped = home.tsvm('wait', '--for', 'stopped', '--timeout', '20', 'web');
  await home.ok('stop', 'web');
  expect((await stopped).code).toBe(0);
  const over = await home.tsvm('wait', '--for', 'agent', 'web');
  expect([over.code, over.stderr]).toEqual([1, expect.stringContaining('and it does not run')]);
});

test('memory and CPUs change with a restart, and the disk of a VM that runs grows at once', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const { stderr } = await home.tsvm('set', '--mem', '96M', '--cpus', '2', '--disk', '8M', 'web');
  expect(stderr).toContain('tsvm restart web');
  const disk = join(vmFolder('web'), 'root.qcow2');
  const info = await home.ok(
    'disk',
    'info',
    '--force-share',
    '--json',
    '--format',
    'qcow2',
    '--trust-backing',
    disk,
  );
  expect(JSON.parse(info)).toMatchObject({ virtualSize: 8 * 2 ** 20 });
  expect((await home.tsvm('set', '--disk', '1M', 'web')).code).toBe(2);

  await home.ok('restart', 'web');
  const [row] = JSON.parse(await home.ok('top', '--json')) as { name: string; memory: number }[];
  // The guest has no drivers.
  const idle = { read: 0, written: 0, received: 0, sent: 0 };
  expect(row).toMatchObject({ name: 'web', memory: 96 * 2 ** 20, ...idle });
  expect(await home.ok('top', '--once')).toMatch(
    /^NAME +CPU% +MEMORY +RESIDENT +READ\/S +WRITE\/S .*\nweb +[\d.]+ +96 MiB /,
  );
});

test('of 20 commands at once on one VM each ends, and the VM stays whole', async () => {
  await home.create('web');
  const random = new Random(3);
  const verbs = [['start'], ['stop', '--timeout', '1'], ['kill'], ['list'], ['info'], ['logs']] as const;
  const runs = Array.from({ length: 20 }, () => {
    const [verb, ...args] = random.pick(verbs);
    return home.tsvm(verb, ...args, ...(verb === 'list' ? [] : ['web']));
  });
  for (const { code, stderr } of await Promise.all(runs)) {
    expect([0, 1]).toContain(code);
    expect(stderr).not.toContain('internal error');
  }
  if ((await home.state('web')) === 'running') await home.ok('kill', 'web');
  await home.ok('start', 'web');
  await home.ok('delete', '--force', 'web');
  expect(home.processes()).toEqual([]);
}, 120_000);

test('requests that make no sense get an answer, and the VM goes on', async () => {
  await home.create('web');
  await home.ok('start', 'web');
  const folder = vmFolder('web');
  const random = new Random(11);
  const paths = [
    '/',
    '/v1/vm',
    '/v1/stop',
    '/v1/console',
    '/v1/disks/0/size',
    '/v1/disks/x/size',
    '/v1/balloon',
    '/v2',
    '/v1/agent/exec',
    '//',
    '/%00',
    '/v1/console?lines=-1',
  ];
  const bodies = [
    '',
    '{',
    '[]',
    'null',
    '{"size":-1}',
    '{"size":1e99}',
    '{"text":5}',
    '{"mode":"never"}',
    '"x"',
    '{"command":""}',
    `{"text":"${'x'.repeat(70_000)}"}`,
  ];
  for (let i = 0; i < 300; i++) {
    const path = random.pick(paths);
    // A stop without a body makes sense, and ends what is to go on.
    const body = path === '/v1/stop' ? random.pick(bodies.slice(1)) : random.pick(bodies);
    expect(
      await ask(join(folder, 'run/control.sock'), random.pick(['GET', 'POST', 'PUT', 'DELETE']), path, body),
    ).toBeGreaterThanOrEqual(200);
  }
  for (let i = 0; i < 60; i++) {
    const target = random.pick(['/v1/agent/stream', '/v1/vm']);
    const rest = random.pick([
      '',
      '\x04\0\0\0\x02{}',
      '\x04\xff\xff\xff\xff',
      '\x09\0\0\0\0',
      '\x04\0\0\0\x01{',
    ]);
    await upgrade(join(folder, 'run/control.sock'), target, rest, random.below(30));
  }
  expect(await home.state('web')).toBe('running');
  await echo('web', 'still here');
  expect(existsSync(join(folder, 'process.json'))).toBe(true);
  expect(readFileSync(join(folder, 'log', 'tsvm.log'), 'utf8')).not.toMatch(/error|failed/);
}, 120_000);

/** Asks for another protocol, says something, and is gone after a while. */
async function upgrade(socket: string, path: string, rest: string, ms: number): Promise<void> {
  const client = connect(socket);
  client.on('error', () => undefined);
  client.write(
    `POST ${path} HTTP/1.1\r\nhost: vm\r\nconnection: upgrade\r\nupgrade: tsvm-exec\r\n\r\n${rest}`,
    'latin1',
  );
  await sleep(ms);
  client.destroy();
}

function ask(socket: string, method: string, path: string, body: string): Promise<number> {
  return new Promise((resolve, reject) => {
    const headers = { 'content-length': Buffer.byteLength(body) };
    const message = request({ socketPath: socket, method, path, headers, agent: false }, (response) => {
      response.resume();
      response.on('end', () => resolve(response.statusCode ?? 0));
    });
    message.on('error', reject);
    message.end(body);
  });
}
