import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { Kernel } from '../../images/debian/kernel.ts';
import type { GuestHost } from '../lab/host.ts';
import { amd64Kernel, cloudKernel, openHost, runGuest, TSVM } from './support.ts';

let host: GuestHost;
let kernels: Record<'cloud' | 'amd64', Kernel>;

beforeAll(async () => {
  host = await openHost();
  kernels = { cloud: await cloudKernel(), amd64: await amd64Kernel() };
});
afterAll(async () => {
  await host.close();
});

/** Facts that init prints between its marks, and messages of level warning or worse that name a table or device. */
const FACTS = `
echo "release=$(uname -r)"
echo "cpus=$(nproc) of $(grep -c ^processor /proc/cpuinfo)"
dmesg -r | grep -E '^<[0-4]>' | grep -E 'ACPI|DMI|SMBIOS|APIC|topology|Firmware Bug|i8042|ttyS|rtc' | sed 's/^/warning=/'
echo "clock=$(cat /sys/devices/system/clocksource/clocksource0/current_clocksource)"
poweroff -f
`;

const facts = (output: string, name: string): string[] =>
  [...output.matchAll(new RegExp(`^${name}=(.*?)\\r?$`, 'gm'))].map((match) => match[1]!);

describe.each(['cloud', 'amd64'] as const)("Debian's %s kernel", (name) => {
  // test/soak/boots.test.ts has all pairs.
  test.each([
    { form: 'unpacked vmlinux', cpus: 1, args: [] },
    { form: 'bzImage', cpus: 4, args: ['--no-unpack-kernel'] },
  ])(
    'as $form boots with $cpus vCPUs, all online, without a warning of the board, and powers off',
    async ({ cpus, args }) => {
      const { code, stdout, stderr } = await runGuest(host, {
        kernel: kernels[name],
        script: FACTS,
        args: [...args, '--cpus', String(cpus)],
      });
      expect(facts(stdout, 'release'), stderr + stdout.slice(-2000)).toEqual([kernels[name].version]);
      expect(facts(stdout, 'cpus')).toEqual([`${cpus} of ${cpus}`]);
      expect(facts(stdout, 'warning')).toEqual([]);
      expect(facts(stdout, 'clock')).toEqual(['kvm-clock']);
      expect(code).toBe(0);
    },
  );
});

test('memory goes past the PCI hole', async () => {
  const { code, stdout } = await runGuest(host, {
    kernel: kernels.cloud,
    script: `
echo "total=$(awk '/MemTotal/ { print $2 }' /proc/meminfo)"
grep 'System RAM' /proc/iomem | sed 's/^/ram=/'
poweroff -f`,
    args: ['--mem', '6G'],
  });
  expect(code).toBe(0);
  const kib = Number(facts(stdout, 'total')[0]);
  expect(kib).toBeGreaterThan(5.7 * 2 ** 20);
  expect(kib).toBeLessThan(6 * 2 ** 20);
  expect(facts(stdout, 'ram').map((line) => line.trim())).toContain('100000000-1bfffffff : System RAM');
});

test("the guest's clock is right within a second", async () => {
  const { stdout } = await runGuest(host, {
    kernel: kernels.cloud,
    script: 'echo "time=$(date +%s)"; poweroff -f',
    args: ['--timings'],
  });
  // The host's own clock, asked right after: in the lab it is not this process's.
  const after = Number((await host.exec(['date', '+%s'])).stdout);
  const guest = Number(facts(stdout, 'time')[0]);
  // Between the guest's look and ours lie its power-off, the end of tsvm and the start of date.
  expect(guest).toBeLessThanOrEqual(after + 1);
  expect(guest).toBeGreaterThan(after - 15);
});

test('initrds are concatenated in order', async () => {
  const { initramfsFile } = await import('../../images/debian/initramfs.ts');
  const second = await initramfsFile({
    init: 'echo second init\npoweroff -f',
    files: [{ type: 'file', path: 'from-second', content: Buffer.from('yes\n') }],
  });
  const { code, stdout } = await runGuest(host, {
    kernel: kernels.cloud,
    script: 'echo first init\npoweroff -f',
    args: ['--initrd', second],
  });
  expect(code).toBe(0);
  expect(stdout).toContain('second init');
  expect(stdout).not.toContain('first init');
});

test('standard input reaches a shell in the guest although it is all there before the guest listens', async () => {
  const { code, stdout } = await runGuest(host, {
    kernel: kernels.cloud,
    script: 'setsid cttyhack sh',
    stdin: 'echo sum=$((20 + 22))\npoweroff -f\n',
  });
  expect(facts(stdout, 'sum')).toEqual(['42']);
  expect(code).toBe(0);
});

test('features are masked by name', async () => {
  const flags = async (args: string[]): Promise<string> => {
    const { stdout } = await runGuest(host, {
      kernel: kernels.cloud,
      script: 'echo "flags=$(grep -m1 ^flags /proc/cpuinfo)"; poweroff -f',
      args,
    });
    return facts(stdout, 'flags')[0] ?? '';
  };
  expect(await flags([])).toMatch(/ aes .* hypervisor /);
  expect(await flags(['--cpu', '-aes'])).not.toMatch(/ aes /);
});

test('a time limit ends the VM, says so and shows the end of the console', async () => {
  const { code, stderr } = await runGuest(host, {
    kernel: kernels.cloud,
    script: 'echo the guest sleeps now; sleep 1000',
    args: ['--timeout', '20'],
  });
  expect(code).toBe(124);
  expect(stderr).toMatch(/20 s/);
  expect(stderr).toContain('the guest sleeps now');
});

test('doctor finds this host usable', async () => {
  const { code, stdout } = await host.exec(['node', TSVM, 'doctor', '--json']);
  const { usable, checks } = JSON.parse(stdout) as {
    usable: boolean;
    checks: { id: string; status: string }[];
  };
  expect({ usable, code }).toEqual({ usable: true, code: 0 });
  expect(checks.find(({ id }) => id === 'guest-kernels')?.status).toBe('ok');
});
