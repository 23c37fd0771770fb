/** Commands in a VM whose guest is this host: their streams, ends and limits, by the library and the command line. */
import { execa } from 'execa';
import { createHash, randomBytes } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Vm, VmExecError, type VmExecChunk } from '../../src/index.ts';
import { HostGuest } from '../support/host-guest.ts';
import { TSVM, VmHome } from '../support/vm-home.ts';

let home: VmHome;
let guest: HostGuest;
let vm: Vm;

beforeAll(async () => {
  home = new VmHome();
  await home.create('web');
  guest = await HostGuest.start(home, 'web');
  vm = Vm.get('web', { home: home.env.TSVM_HOME });
}, 120_000);
afterAll(async () => {
  await guest.close();
  home.remove();
}, 60_000);

/** for what happens soon, on a machine that has much to do */
const PATIENCE = { timeout: 30_000 };

const sh = (line: string): [string, string[]] => ['sh', ['-c', line]];

test('a command that is awaited gives all that it said', async () => {
  expect(await vm.exec(...sh('echo out; echo err >&2; exit 3'))).toEqual({
    exitCode: 3,
    signal: undefined,
    stdout: 'out\n',
    stderr: 'err\n',
    truncated: false,
  });
});

test('a command that is iterated over gives each piece when it comes', async () => {
  const go = join(guest.folder, 'go');
  const run = vm.exec(...sh(`echo one; while ! [ -e ${go} ]; do sleep 0.05; done; echo two >&2`));
  const chunks: VmExecChunk[] = [];
  for await (const chunk of run) {
    chunks.push(chunk);
    // It waits for this, which comes after its first word.
    if (chunk.text === 'one\n') await vm.exec('touch', [go], { check: true });
  }
  expect(chunks.map(({ stream, text }) => [stream, text])).toEqual([
    ['stdout', 'one\n'],
    ['stderr', 'two\n'],
  ]);
  expect(await run).toMatchObject({ exitCode: 0, stdout: '', stderr: '' });
});

test('characters that are cut come whole', async () => {
  let text = '';
  for await (const chunk of vm.exec(...sh("printf '\\342\\202'; sleep 0.3; printf '\\254!'")))
    text += chunk.text;
  expect(text).toBe('€!');
});

test('input may be text, bytes or a stream, and be large', async () => {
  expect(await vm.exec('cat', [], { input: 'grüße' })).toMatchObject({ stdout: 'grüße' });
  const bytes = randomBytes(5_000_000);
  const sum = createHash('md5').update(bytes).digest('hex');
  expect((await vm.exec('md5sum', [], { input: bytes })).stdout).toContain(sum);
  const pieces = Readable.from([bytes.subarray(0, 1_000_001), bytes.subarray(1_000_001)]);
  expect((await vm.exec('md5sum', [], { input: pieces })).stdout).toContain(sum);
});

test('an input that fails ends the command with its error', async () => {
  const input = new Readable({ read: () => undefined });
  const run = vm.exec('cat', [], { input });
  setTimeout(() => input.destroy(new Error('the source is gone')), 100);
  await expect(run).rejects.toThrow('the source is gone');
});

test('a command that does not read its input ends nevertheless', async () => {
  const input = Readable.from(
    (function* () {
      for (;;) yield Buffer.alloc(65_536);
    })(),
  );
  expect(await vm.exec('true', [], { input })).toMatchObject({ exitCode: 0 });
});

test('with check another exit code than 0 is an error, however the output is taken', async () => {
  const line = sh('echo lost >&2; exit 4');
  await expect(vm.exec(...line, { check: true })).rejects.toThrow(VmExecError);
  const iterate = async (): Promise<void> => {
    for await (const chunk of vm.exec(...line, { check: true })) expect(chunk.stream).toBe('stderr');
  };
  await expect(iterate()).rejects.toMatchObject({
    code: 'EEXEC',
    message: 'sh -c echo lost >&2; exit 4 ended with exit code 4: lost',
    result: { exitCode: 4 },
  });
});

test('a command ends with its time, and cleans up', async () => {
  const file = join(guest.folder, 'trapped');
  const run = vm.exec(...sh(`trap 'echo yes > ${file}; exit' TERM; while :; do sleep 0.1; done`), {
    timeout: 500,
  });
  await expect(run).rejects.toMatchObject({ code: 'EAGENTTIMEOUT' });
  expect(readFileSync(file, 'utf8')).toBe('yes\n');
});

test('a command that ignores being told to end is killed', async () => {
  const run = vm.exec(...sh(`trap '' TERM; while :; do sleep 0.1; done`), { timeout: 300 });
  await expect(run).rejects.toThrow('it was killed');
});

test('a signal ends the command with its reason', async () => {
  const abort = new AbortController();
  const file = join(guest.folder, 'pid');
  const run = vm.exec(...sh(`echo $$ > ${file}; exec sleep 1000`), { signal: abort.signal });
  await expect.poll(() => (existsSync(file) ? readFileSync(file, 'utf8') : ''), PATIENCE).toMatch(/\d\n/);
  abort.abort(new Error('enough'));
  await expect(run).rejects.toThrow('enough');
  const pid = Number(readFileSync(file, 'utf8'));
  await expect.poll(() => existsSync(`/proc/${pid}`), PATIENCE).toBe(false);
});

test('who leaves the loop ends the command', async () => {
  const file = join(guest.folder, 'left');
  const run = vm.exec(...sh(`echo $$ > ${file}; exec yes`));
  for await (const { text } of run) {
    expect(text.startsWith('y\n')).toBe(true);
    break;
  }
  const pid = Number(readFileSync(file, 'utf8'));
  await expect.poll(() => existsSync(`/proc/${pid}`), PATIENCE).toBe(false);
  await expect(run).rejects.toMatchObject({ code: 'EABANDONED' });
});

test('a reader that is slow keeps the command waiting, and memory small', async () => {
  const before = process.memoryUsage().arrayBuffers;
  let length = 0;
  let most = 0;
  for await (const { bytes } of vm.exec('head', ['-c', '100000000', '/dev/zero'])) {
    length += bytes.length;
    if (length % 50 === 0) await sleep(1);
    most = Math.max(most, process.memoryUsage().arrayBuffers - before);
  }
  expect(length).toBe(100_000_000);
  expect(most).toBeLessThan(50_000_000);
});

test('a reader that is slow gets all that was said by a command that has ended', async () => {
  // What is on the way then has room on it; how much, depends on the system.
  const sizes = [880_000, 940_000, 1_000_000];
  const read = async (size: number): Promise<number> => {
    let length = 0;
    for await (const { bytes } of vm.exec('head', ['-c', String(size), '/dev/zero'])) {
      // Longer than a command's last output is waited for.
      if (length === 0) await sleep(4000);
      length += bytes.length;
    }
    return length;
  };
  expect(await Promise.all(sizes.map(read))).toEqual(sizes);
});

test('output is kept to a limit, and that it was more is told', async () => {
  const { stdout, truncated } = await vm.exec('head', ['-c', '17000000', '/dev/zero']);
  expect([stdout.length, truncated]).toEqual([16 * 2 ** 20, true]);
});

test('more commands at once than there are streams for', async () => {
  const runs = Array.from({ length: 8 }, (_, i) =>
    vm.exec(...sh(`sleep 0.3; cat; echo ${i}`), { input: 'in' }),
  );
  const results = await Promise.all(runs);
  expect(results.map(({ stdout }) => stdout)).toEqual(runs.map((_, i) => `in${i}\n`));
});

test('its output is taken once', async () => {
  const run = vm.exec('true');
  await run;
  expect(() => run[Symbol.asyncIterator]()).toThrow('taken already');
});

test('the command line passes streams, exit codes and signals', async () => {
  const parts = await home.tsvm('exec', 'web', '--', ...sh('echo out; echo err >&2; exit 7').flat());
  expect(parts).toEqual({ code: 7, stdout: 'out\n', stderr: 'err\n' });
  const piped = home.begin(['exec', '-i', 'web', '--', 'md5sum']);
  piped.stdin.end(Buffer.alloc(3_000_000, 7));
  const sum = createHash('md5').update(Buffer.alloc(3_000_000, 7)).digest('hex');
  expect((await piped).stdout).toBe(`${sum}  -\n`);
  expect(await home.tsvm('exec', 'web', '--', ...sh('kill -9 $$').flat())).toMatchObject({ code: 137 });
  const late = await home.tsvm('exec', '--timeout', '1', 'web', '--', 'sleep', '1000');
  expect([late.code, late.stderr]).toEqual([1, expect.stringContaining('within 1 s')]);
  const interrupted = home.begin(['exec', 'web', '--', ...sh('echo up; exec sleep 1000').flat()]);
  interrupted.stdout.once('data', () => interrupted.kill('SIGINT'));
  expect((await interrupted).exitCode).toBe(130);
});

test('one whose client is killed ends, also where it does not read its input', async () => {
  const file = join(guest.folder, 'orphan');
  const run = home.begin(['exec', '-i', 'web', '--', ...sh(`echo $$ > ${file}; exec sleep 1000`).flat()]);
  run.stdin.write(Buffer.alloc(2_000_000));
  run.stdin.on('error', () => undefined);
  await expect.poll(() => (existsSync(file) ? readFileSync(file, 'utf8') : ''), PATIENCE).toMatch(/\d\n/);
  run.kill('SIGKILL');
  const pid = Number(readFileSync(file, 'utf8'));
  await expect.poll(() => existsSync(`/proc/${pid}`), PATIENCE).toBe(false);
});

test('one whose reader is gone ends', async () => {
  const { stdout } = await execa(
    'bash',
    ['-c', '"$0" "$1" exec web -- yes | head -1; echo ${PIPESTATUS[0]}', process.execPath, TSVM],
    { env: home.env },
  );
  expect(stdout).toBe('y\n141');
});
