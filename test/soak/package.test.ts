/** The package as npm has it, with its addon built where it is installed, and README's first program run with it. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { kernelOf } from '../../images/debian/kernel.ts';
import { openHost } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';
import { agentInitramfs } from '../support/agent-guest.ts';
import { grubDisk } from '../support/images/cloud-images.ts';
import { InstalledPackage } from '../support/package.ts';
import { readmePrograms } from '../support/readme.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';

const LIMIT_MS = 900_000;

let own: InstalledPackage;
let host: GuestHost;
let folder: string;

beforeAll(async () => {
  own = await InstalledPackage.install('built');
  host = await openHost();
  folder = join(host.scratch, 'package');
}, LIMIT_MS);
afterAll(async () => {
  await host.exec(['rm', '-rf', folder]);
  await host.close();
  own.remove();
}, LIMIT_MS);

/** A line of shell where the guests run. */
async function shell(line: string): Promise<string> {
  const { code, stdout, stderr } = await host.exec(`set -e\n${line}`, { timeoutMs: LIMIT_MS });
  if (code !== 0) throw new Error(`status ${code}: ${stdout}${stderr}`);
  return stdout;
}

test(
  'its addon is built and its program compiled, and its command works',
  async () => {
    const made = readdirSync(join(own.project, 'node_modules/tsvm/dist')).filter((name) =>
      name.endsWith('.code'),
    );
    expect(made).toHaveLength(2);
    await own.run('npx', 'tsvm', 'disk', 'create', 'own.qcow2', '1G');
    expect(await own.run('npx', 'tsvm', 'disk', 'info', '--format', 'qcow2', 'own.qcow2')).toContain('1 GiB');
  },
  LIMIT_MS,
);

test(
  "README's first program runs",
  async () => {
    own.write('program.mts', readmePrograms()[0]!);
    expect(await own.compile('program.mts')).toBe('');
    const kernel = await kernelOf('linux-image-cloud-amd64');
    await unpackAhead(kernel.vmlinuz);
    const modules = ['virtio_blk', 'virtio_net'];
    const initrd = await agentInitramfs(kernel, {
      modules,
      setUp: `mkdir -p /etc /srv; echo readme > /etc/made-by; echo 'guest login: '`,
    });
    const disk = join(own.project, 'disk.qcow2');
    await grubDisk(disk, 'readme', kernel, initrd);
    const said = await shell(`
      mkdir -p '${folder}/site' && cd '${folder}' && echo page > site/index.html
      cp '${own.project}/program.mjs' '${disk}' . && ln -s '${own.project}/node_modules' node_modules
      export TSVM_HOME='${folder}/home'
      node node_modules/tsvm/dist/tsvm.cjs image import --name debian --format qcow2 disk.qcow2 >&2
      node program.mjs
      cat etc/made-by; node node_modules/tsvm/dist/tsvm.cjs list -q`);
    // The kernel's messages, which are what the program prints, and a file that came out of the guest.
    expect(said).toMatch(/Linux version [^]*\nreadme\n$/);
  },
  LIMIT_MS,
);
