import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import { amd64Kernel, cloudKernel, debianKernel, openHost, runGuest } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';

const BOOTS = 50;

let host: GuestHost;
let kernels: Kernel[];

beforeAll(async () => {
  host = await openHost();
  kernels = [await cloudKernel(), await amd64Kernel()];
  try {
    kernels.push(await debianKernel('linux-image-cloud-amd64', { suite: 'bookworm-backports' }));
  } catch (error) {
    console.log(
      `without a kernel of bookworm-backports: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
});
afterAll(async () => {
  await host.close();
});

/** Every kernel in every form with 1 and 4 vCPUs, in turn until there are enough. */
test(`${BOOTS} boots of ${BOOTS} reach a shell`, async () => {
  const forms = kernels.flatMap((kernel) =>
    [[], ['--no-unpack-kernel']].flatMap((args) => [1, 4].map((cpus) => ({ kernel, args, cpus }))),
  );
  for (let boot = 0; boot < BOOTS; boot++) {
    const { kernel, args, cpus } = forms[boot % forms.length]!;
    const { code, stdout, stderr } = await runGuest(host, {
      kernel,
      script: 'setsid cttyhack sh',
      args: [...args, '--cpus', String(cpus)],
      stdin: 'echo "up $(uname -r) cpus=$(nproc)"\npoweroff -f\n',
    });
    const what = `boot ${boot + 1}: ${kernel.version} ${args.join(' ')} with ${cpus} vCPUs`;
    expect(stdout, `${what}\n${stderr}`).toContain(`up ${kernel.version} cpus=${cpus}`);
    expect(code, what).toBe(0);
    console.log(`${what}: up`);
  }
});
