import { Command } from 'commander';
import { describe, expect, it } from 'vitest';

import { addRun } from '../../../src/cli/run.ts';
import type { VmOptions } from '../../../src/vmm/types.ts';

class Started extends Error {}

/** The options that `tsvm run ARGS` starts a VM with, other than where its log goes. */
async function optionsOf(...args: string[]): Promise<Omit<VmOptions, 'log'>> {
  let given: VmOptions | undefined;
  const program = new Command('tsvm').exitOverride();
  addRun(
    program,
    () => undefined,
    (options) => {
      given = options;
      return Promise.reject(new Started());
    },
  );
  await expect(program.parseAsync(['run', ...args], { from: 'user' })).rejects.toThrow(Started);
  if (given === undefined) throw new Error('no VM was started');
  const { log, ...options } = given;
  expect(log).toBeTypeOf('function');
  return options;
}

describe('the options of tsvm run', () => {
  it('leave to the VM what is not given', async () => {
    expect(await optionsOf('--kernel', 'vmlinuz')).toEqual({
      kernel: 'vmlinuz',
      unpackKernel: true,
      noReboot: false,
    });
  });

  it('are all passed on', async () => {
    const options = await optionsOf(
      ...['--kernel', 'vmlinuz', '--cmdline', 'console=ttyS0 quiet', '--mem', '1.5G', '--cpus', '32'],
      ...['--cpu', '-rdrand,+avx2', '--no-reboot', '--no-unpack-kernel', '--timeout', '2.5', '--timings'],
    );
    expect(options).toEqual({
      kernel: 'vmlinuz',
      cmdline: 'console=ttyS0 quiet',
      memory: 1536 * 1024 ** 2,
      cpus: 32,
      cpu: '-rdrand,+avx2',
      noReboot: true,
      unpackKernel: false,
    });
  });

  it('describe devices', async () => {
    const options = await optionsOf(
      ...[
        '--kernel',
        'k',
        '--disk',
        'a.raw',
        '--disk',
        'b.qcow2,format=qcow2,ro,serial=B',
        '--transport',
        'mmio',
      ],
      ...[
        '--console',
        'hvc0',
        '--port',
        'org.qemu.guest_agent.0=agent.sock',
        '--rng',
        '--balloon',
        'stats=2',
      ],
    );
    expect(options).toMatchObject({
      disks: [{ path: 'a.raw' }, { path: 'b.qcow2', format: 'qcow2', readOnly: true, serial: 'B' }],
      transport: 'mmio',
      console: 'hvc0',
      ports: [{ name: 'org.qemu.guest_agent.0', path: 'agent.sock' }],
      rng: true,
      balloon: { statisticsInterval: 2 },
    });
  });

  it('have a balloon without settings', async () => {
    expect((await optionsOf('--kernel', 'k', '--balloon')).balloon).toEqual({});
  });

  it('keep several initrds in their order', async () => {
    const options = await optionsOf('--initrd', 'b', '--kernel', 'vmlinuz', '--initrd', 'a', '--initrd', 'b');
    expect(options.initrds).toEqual(['b', 'a', 'b']);
  });

  it('keep an empty command line', async () => {
    expect((await optionsOf('--kernel', 'vmlinuz', '--cmdline', '')).cmdline).toBe('');
  });

  it('take a command line that looks like options', async () => {
    expect((await optionsOf('--kernel', 'vmlinuz', '--cmdline', '--debug')).cmdline).toBe('--debug');
  });
});
