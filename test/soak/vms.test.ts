/** Many lives of VMs, of which nothing is left; and many deaths, after which the store is still whole. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { Random } from '../fuzz/random.ts';
import { VmHome } from '../support/vm-home.ts';

const CYCLES = Number(process.env['TSVM_VM_CYCLES'] ?? 100);

let home: VmHome;
beforeEach(() => {
  home = new VmHome();
});
afterEach(() => home.remove());

test(`${CYCLES} VMs are created, started, stopped and deleted, and nothing is left of them`, async () => {
  for (let i = 0; i < CYCLES; i++) {
    const name = `vm-${i}`;
    await home.create(name);
    await home.ok('start', name);
    // Who uses something is seen at all.
    if (i === 0) expect(home.users()).not.toEqual([]);
    await home.ok(i % 2 === 0 ? 'stop' : 'kill', name);
    await home.ok('delete', name);
  }
  expectNothingLeft();
});

test(`${CYCLES} kills of commands and VMs leave a store that can be listed, used and cleaned`, async () => {
  const random = new Random(20261121);
  await home.create('web');
  for (let i = 0; i < CYCLES; i++) {
    const command = home.begin(
      random.pick([
        ['start', 'web'],
        ['stop', '--timeout', '1', 'web'],
        ['restart', 'web'],
      ]),
    );
    await sleep(random.below(600));
    command.kill('SIGKILL');
    await command;
    if (random.oneIn(2)) {
      for (const pid of home.processes()) {
        if (random.oneIn(2)) process.kill(pid, 'SIGKILL');
      }
    }
    expect(await home.ok('list', '-q')).toBe('web\n');
  }
  await expect
    .poll(() => home.tsvm('delete', '--force', 'web').then(({ code }) => code), { timeout: 20_000 })
    .toBe(0);
  await expect.poll(() => home.processes(), { timeout: 20_000 }).toEqual([]);
  expectNothingLeft();
});

/** No process, file, socket or folder of a VM; and nothing that is open, locked or mapped, which takes a process. */
function expectNothingLeft(): void {
  expect(home.processes()).toEqual([]);
  expect(readdirSync(join(home.env.TSVM_HOME, 'vms'))).toEqual([]);
  expect(home.files()).toEqual([]);
  expect(home.users()).toEqual([]);
}
