/** What `tsvm run IMAGE` has of a VM's options: folders, a seed for cloud-init, and a terminal. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { cloudKernel, openHost, TSVM } from '../guest/support.ts';
import type { GuestHost } from '../lab/host.ts';
import { agentInitramfs, NETWORK_UP } from '../support/agent-guest.ts';

const LIMIT_MS = 600_000;

let host: GuestHost;
let home: string;

beforeAll(async () => {
  host = await openHost();
  home = join(host.scratch, 'run-options');
});
afterAll(async () => {
  await host.exec(`rm -rf '${home}'`);
  await host.close();
});

it('gives folders, a seed and a terminal', async () => {
  const kernel = await cloudKernel();
  const initrd = await agentInitramfs(kernel, {
    modules: ['virtio_blk', 'virtiofs', 'vfat', 'nls_cp437', 'nls_ascii'],
    programs: [{ package: 'bsdutils', path: 'usr/bin/script' }],
  });
  const userData = '#cloud-config\nruncmd: [ "true" ]';
  const disk = join(home, 'disk.raw');
  await host.exec(
    `mkdir -p '${home}/share' && cd '${home}' && truncate -s 1M disk.raw && echo from-host > share/in && printf '${userData}' > user-data`,
  );
  const script = `
    tty; cat /srv/in; echo from-guest > /srv/out
    mkdir /seed; mount -t vfat -o ro /dev/vdb /seed && cat /seed/user-data; echo`;
  const result = await host.exec(
    [
      ...['env', `TSVM_HOME=${home}/data`, 'node', TSVM, 'run', disk, '--kernel', kernel.vmlinuz],
      ...['--initrd', initrd, '--cmdline', 'console=ttyS0 quiet', '--mem', '256M', '--net', 'none', '-t'],
      ...['--share', `${home}/share:/srv`, '--cloud-init', `${home}/user-data`, '--', 'sh', '-c', script],
    ],
    { timeoutMs: LIMIT_MS },
  );
  expect(result.stdout.replaceAll('\r', ''), result.stderr).toBe(`/dev/pts/0\nfrom-host\n${userData}\n`);
  expect((await host.exec(['cat', `${home}/share/out`])).stdout).toBe('from-guest\n');
  expect((await host.exec(['ls', '-A', `${home}/data/vms`])).stdout).toBe('');
});

it('gives ports of the host, to the first of its kind and to one that goes on from it', async () => {
  const kernel = await cloudKernel();
  const initrd = await agentInitramfs(kernel, { modules: ['virtio_net'], setUp: NETWORK_UP });
  // Where the connection goes before an answer, Node may end without a word.
  const fetchOnce = `process.exitCode = 1;
    fetch('http://127.0.0.1:18080/name', { signal: AbortSignal.timeout(5000) })
      .then((answer) => answer.text()).then((text) => { console.log(text.trim()); process.exitCode = 0; }, () => {})`;
  const { code, stdout, stderr } = await host.exec(
    `mkdir -p '${home}' && cd '${home}' && truncate -s 1M disk.raw && export TSVM_HOME='${home}/data'
     for kind in first second; do
       node '${TSVM}' run ./disk.raw --kernel '${kernel.vmlinuz}' --initrd '${initrd}' --cmdline 'console=ttyS0 quiet' \\
         --mem 256M --net user -p 18080:8080 --name $kind -- \\
         sh -c 'mkdir /www; cat /proc/sys/kernel/hostname > /www/name; exec httpd -f -p 8080 -h /www' &
       for i in $(seq 200); do node -e "${fetchOnce}" && break; sleep 1; done
       kill -INT $!; wait $!; echo "status $?"
     done`,
    { timeoutMs: LIMIT_MS },
  );
  // One that boots would be told its name by cloud-init.
  expect({ code, stdout }, stderr).toEqual({ code: 0, stdout: '(none)\nstatus 130\nsecond\nstatus 130\n' });
});
