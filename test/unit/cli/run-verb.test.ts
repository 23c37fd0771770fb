import { Command } from 'commander';
import { describe, expect, it } from 'vitest';

import { addRun } from '../../../src/cli/run.ts';
import type { VmOptions } from '../../../src/vmm/types.ts';

class Started extends Error {}

/** The options that `tsvm run ARGS` starts a VM with. */
async function optionsOf(...args: string[]): Promise<VmOptions> {
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
  return given;
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
