/** VMs by the library: a dialogue on the console, ends of all kinds, and nothing left behind. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Vm, VmStoreError, WaitError } from '../../src/index.ts';
import { buildGuestProgram } from '../guests/build.ts';
import { VmHome } from '../support/vm-home.ts';

let home: VmHome;

beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

async function make(name: string, temporary = false): Promise<Vm> {
  const path = join(home.folder, 'blank.raw');
  writeFileSync(path, Buffer.alloc(1 << 20));
  const { elf } = await buildGuestProgram('echo');
  return Vm.create({
    home: home.env.TSVM_HOME,
    name,
    temporary,
    disk: { path, format: 'raw' },
    kernel: elf,
    memory: 2 ** 25,
    networks: ['none'],
  });
}

test('a console is talked to', async () => {
  await using vm = await make('web', true);
  await vm.start();
  await vm.serial.expect('echo: ready');
  await vm.serial.send('one two\n');
  expect((await vm.serial.expect(/one (\w+)\s/))[1]).toBe('two');
  // What was matched is taken out.
  await expect(vm.serial.expect('ready', { timeout: 200 })).rejects.toThrow(WaitError);
  expect(await vm.stop()).toBe(true);
  await expect(vm.serial.expect('more')).rejects.toMatchObject({ code: 'ESTOPPED' });
});

test('a VM is the same for the library and the command line', async () => {
  const vm = await make('web');
  await vm.start();
  expect(await home.state('web')).toBe('running');
  await home.ok('stop', 'web');
  expect(vm.status.state).toBe('stopped');
  expect(Vm.get('web', { home: home.env.TSVM_HOME }).settings.vm.memory).toBe(2 ** 25);
  expect(Vm.list({ home: home.env.TSVM_HOME }).map(({ name }) => name)).toEqual(['web']);
  await home.ok('delete', 'web');
  expect(() => vm.status).toThrow(VmStoreError);
});

test('a temporary VM is gone with its variable', async () => {
  {
    await using vm = await make('web', true);
    await vm.start();
  }
  expect(await home.ok('list', '-q')).toBe('');
  expect(home.processes()).toEqual([]);
});

test('a wait ends with its signal', async () => {
  await using vm = await make('web', true);
  await vm.start();
  const abort = new AbortController();
  const waits = [
    vm.wait('login', { signal: abort.signal }),
    vm.serial.expect('never', { signal: abort.signal }),
  ];
  abort.abort(new Error('enough'));
  expect(await Promise.allSettled(waits)).toEqual(
    waits.map(() => ({ status: 'rejected', reason: new Error('enough') })),
  );
});

test('a command in a guest without an agent says what is missing', async () => {
  await using vm = await make('web', true);
  await vm.start();
  await expect(vm.exec('true', [], { timeout: 300 })).rejects.toMatchObject({ code: 'EAGENTTIMEOUT' });
});
