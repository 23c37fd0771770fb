import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { beforeAll, describe, expect, test, vi } from 'vitest';
import { createEventFd, createTimer } from '../../src/kvm/events.ts';
import { GuestRam } from '../../src/kvm/memory.ts';
import { bundleScript } from '../support/bundle-script.ts';
import { longModeVm } from '../support/long-mode.ts';
import { tinyVm } from '../support/real-mode.ts';
import { addressSpace, resources } from '../support/resources.ts';
import { real, HLT, SPIN } from '../support/x86.ts';

const COUNT = 200;
const RAM = 16 * 2 ** 20;
const PORT = 0x500;

/** Makes a VM and all that may hang on one, by turns; what is returned closes it. */
async function makeVm(i: number): Promise<() => void> {
  const closers: (() => void)[] = [];
  const { vm, ram } =
    i % 4 === 3
      ? longModeVm([HLT], { irqchip: true, ranges: [{ base: 0, size: RAM }] })
      : tinyVm([...real.out8(PORT, 1), ...real.out8(PORT + 1, 1), HLT], RAM);
  const windows = [ram.memory.view(0, 4096), ram.native.window(0, 4096)];
  const handle = vm.add({
    name: 'device',
    space: 'pio',
    base: PORT,
    size: 4,
    reads: 'shadow',
    writes: ['trap', 'posted', 'posted', 'posted'],
    // holds the VM from within, as devices do
    write: (_offset, _size, value) => (handle.shadow[0] = value + windows.length + vm.vcpus.length),
  });
  if (i % 2 === 0) {
    const [fd, timer] = [createEventFd(), createTimer()];
    fd.onEvent = () => vm.vcpus.length;
    fd.watch();
    timer.watch();
    timer.arm(3600e9);
    vm.native.ioeventfd({ fd: fd.fd, space: 'pio', address: PORT + 8, size: 1 });
    closers.push(
      () => fd.close(),
      () => timer.close(),
    );
  }
  if (i % 3 === 0) {
    const memfd = new GuestRam({ ranges: [{ base: 0, size: 65536 }], backing: { kind: 'memfd' } });
    vm.native.setMemory({
      slot: 7,
      address: 0xc0000000,
      size: 65536,
      memory: memfd.native,
      offset: 0,
      readOnly: false,
      logDirty: false,
    });
    closers.push(() => memfd.close());
  }
  if (i % 4 < 2) {
    await new Promise<void>((resolve) => {
      vm.onExit = () => resolve();
      vm.resume();
    });
  }
  if (i % 5 === 0) vm.createVcpu();
  return () => {
    for (const close of [...closers, () => vm.close(), () => ram.close()]) close();
  };
}

async function makeAll(count: number, close: boolean): Promise<void> {
  for (let i = 0; i < count; i++) {
    const closeIt = await makeVm(i);
    if (close) closeIt();
  }
}

const collect = async (): Promise<void> => {
  for (let i = 0; i < 3; i++) {
    globalThis.gc?.();
    await new Promise((resolve) => setImmediate(resolve));
  }
};

describe(`${COUNT} VMs leave no thread, no descriptor and no mapping behind`, () => {
  // threads of libuv and V8 come once, with the first use
  beforeAll(async () => {
    await makeAll(10, true);
    await collect();
  });

  test.each([
    ['that were closed', true],
    ['that were dropped', false],
  ])(
    '%s',
    async (_, close) => {
      expect(globalThis.gc).toBeTypeOf('function');
      const before = resources();
      const space = addressSpace();
      await makeAll(COUNT, close);
      // what is closed is given back at once, before any collection
      if (close) expect(resources()).toEqual(before);
      await vi.waitFor(
        async () => {
          await collect();
          // the last one may still lie in a register or on the stack
          const now = resources();
          expect(now.threads - before.threads).toBeLessThanOrEqual(2);
          expect(now.fds - before.fds).toBeLessThanOrEqual(8);
          expect(now.maps - before.maps).toBeLessThanOrEqual(4);
          // a quarter of their RAM: malloc keeps arenas of 64 MiB, V8 pages of its heap
          expect(addressSpace() - space).toBeLessThan((COUNT * RAM) / 4);
        },
        { timeout: 20_000 },
      );
    },
    120_000,
  );

  test('a VM that runs is not collected, though nobody holds it', async () => {
    const before = resources();
    const exits: string[] = [];
    (() => {
      const tiny = tinyVm([...real.movEcx(200_000), ...real.loopEcx([0x90]), HLT]);
      tiny.vm.onExit = () => {
        exits.push('halted');
        tiny.vm.close();
        tiny.ram.close();
      };
      tiny.vm.resume();
    })();
    await vi.waitFor(async () => {
      await collect();
      expect(exits).toEqual(['halted']);
    }, 20_000);
    expect(resources().threads).toBe(before.threads);
  });

  test('regions that were removed and posted buffers are collected', async () => {
    const tiny = tinyVm([HLT]);
    let collected = 0;
    const registry = new FinalizationRegistry(() => collected++);
    for (let i = 0; i < 100; i++) {
      const handle = tiny.vm.add({
        name: 'bar',
        space: 'mmio',
        base: 0xd0000000,
        size: 65536,
        reads: 'shadow',
        writes: 'trap',
      });
      registry.register(handle.shadow.buffer, undefined);
      handle.remove();
    }
    await vi.waitFor(async () => {
      await collect();
      expect(collected).toBeGreaterThanOrEqual(99);
    }, 10_000);
    tiny.vm.close();
    tiny.ram.close();
  });
});

describe('the process', () => {
  const run = async (script: string): Promise<{ stdout: string; seconds: number }> => {
    const file = await bundleScript(`
      import { tinyVm } from './test/support/real-mode.ts';
      const spin = () => tinyVm(${JSON.stringify(SPIN)});
      const say = (text: string) => process.stdout.write(text + ' ' + Date.now() + '\\n');
      ${script}`);
    const { stdout } = await promisify(execFile)(process.execPath, [file], { timeout: 50_000 });
    const [text = '', at = ''] = stdout.trim().split(' ');
    return { stdout: text, seconds: (Date.now() - Number(at)) / 1000 };
  };

  test('process.exit() with a running VM ends promptly', async () => {
    const { stdout, seconds } = await run(
      `const { vm } = spin(); vm.resume(); setTimeout(() => { say('exiting'); process.exit(0); }, 50);`,
    );
    expect(stdout).toBe('exiting');
    expect(seconds).toBeLessThan(2);
  });

  test('ends by itself when all VMs rest, also without close()', async () => {
    const { stdout, seconds } = await run(
      `const { vm } = spin(); vm.resume(); await vm.pause(); process.on('exit', () => vm.closed); say('paused');`,
    );
    expect(stdout).toBe('paused');
    expect(seconds).toBeLessThan(2);
  });

  test('is kept alive by a VM that runs, and by nothing after its exit', async () => {
    const { stdout } = await run(
      `const { vm } = tinyVm([0x66, 0xb9, 0, 0, 1, 0, 0x66, 0x49, 0x75, 0xfc, 0xf4]);
       vm.onExit = () => say('halted'); vm.resume();`,
    );
    expect(stdout).toBe('halted');
  });

  test('an uncaught exception in a device ends it with its status, the VM running', async () => {
    const script = `
      const { vm } = tinyVm([0xe6, 0x80, 0xeb, 0xfc]);
      vm.add({ name: 'd', space: 'pio', base: 0x80, size: 1, reads: 'trap', writes: 'trap',
        write: () => { throw new Error('a bug in the device'); } });
      vm.resume();`;
    await expect(run(script)).rejects.toMatchObject({
      code: 1,
      stderr: expect.stringContaining('a bug in the device') as string,
    });
  });
});
