import { describe, expect, it, test } from 'vitest';
import { IniError } from '../../../../src/manager/ini.ts';
import type { VmSettings } from '../../../../src/manager/vms/settings.ts';
import { formatVmIni, parseVmIni } from '../../../../src/manager/vms/vm-ini.ts';
import { Random } from '../../../fuzz/random.ts';

const MIB = 2 ** 20;
const SETTINGS: VmSettings = {
  vm: {
    image: 'debian:12',
    user: 'debian',
    memory: 768 * MIB,
    cpus: 2,
    cpu: '+avx2,-rdrand',
    console: 'hvc0',
    transport: 'mmio',
    balloon: false,
    jail: 'off',
  },
  boot: {
    kernel: '/boot/vmlinuz',
    initrd: 'initrd.img',
    cmdline: 'root=LABEL=root ro console="ttyS0" ; quiet',
  },
  disks: [
    {
      file: 'root.qcow2',
      format: 'qcow2',
      trustBacking: true,
      readOnly: false,
      cache: 'none',
      serial: 'a b',
    },
    { file: '/data/second.raw', format: 'raw', trustBacking: false, readOnly: true, cache: 'writeback' },
  ],
  network: {
    cards: ['user,mtu=1500', 'vmnet=lan,name=web'],
    publish: ['8080:80', '[::1]:0:53/udp'],
    hostAccess: true,
  },
  shares: ['/src:/mnt/src:ro'],
};

const MINIMUM = '[vm]\n[boot]\nkernel = k\n';

function errorOf(text: string): string {
  try {
    parseVmIni(text, 'vm.ini');
  } catch (error) {
    expect(error).toBeInstanceOf(IniError);
    return (error as Error).message;
  }
  throw new Error('no error');
}

test('settings come back as they were written', () => {
  expect(parseVmIni(formatVmIni(SETTINGS, 'web'), 'vm.ini')).toEqual(SETTINGS);
});

test('what is not given has its default', () => {
  expect(parseVmIni(MINIMUM, 'vm.ini')).toEqual({
    vm: { memory: 512 * MIB, cpus: 1, console: 'serial', transport: 'pci', balloon: true, jail: 'on' },
    boot: { kernel: 'k' },
    disks: [],
    network: { cards: [], publish: [], hostAccess: false },
    shares: [],
  });
});

test('disks come in the order of their numbers', () => {
  const text = `${MINIMUM}[disk.10]\nfile = b\n[disk.2]\nfile = a\n`;
  expect(parseVmIni(text, 'vm.ini').disks.map(({ file }) => file)).toEqual(['a', 'b']);
});

describe('a mistake is told with its line', () => {
  it.each([
    ['[vm]\nmemory = lots\n[boot]\nkernel=k\n', /^vm\.ini:2: 'memory' is not a size/],
    ['[vm]\n\n; more\nmemory = 1M\n[boot]\nkernel=k\n', /^vm\.ini:4: 'memory': must be at least 32M/],
    ['[vm]\ncpus = 33\n[boot]\nkernel=k\n', /^vm\.ini:2: 'cpus': must be at most 32/],
    ['[vm]\ncpus = two\n[boot]\nkernel=k\n', /^vm\.ini:2: 'cpus' is no whole number: 'two'/],
    ['[vm]\nballoon = maybe\n[boot]\nkernel=k\n', /^vm\.ini:2: 'balloon' is yes or no, not 'maybe'/],
    [
      '[vm]\nmemroy = 1G\n[boot]\nkernel=k\n',
      /^vm\.ini:2: there is no 'memroy'; there are image, user, ssh-key, identity, memory/,
    ],
    ['[vm]\n[boot]\n[disk.0]\nformat = raw\n', /^vm\.ini:3: \[disk\.0\] lacks 'file'/],
    [`${MINIMUM}[disk.26]\nfile = x\n`, /^vm\.ini:4: there is no such section/],
    [`${MINIMUM}[disk.0]\nfile = x\nformat = vmdk\n`, /^vm\.ini:6: 'format': /],
    [
      `${MINIMUM}[network]\ncard.0 = user\ncard.1 = wlan\n`,
      /^vm\.ini:6: 'card.1': 'wlan' is no kind of network/,
    ],
    [`${MINIMUM}[network]\npublish.0 = 99999:1\n`, /^vm\.ini:5: 'publish.0': /],
    [`${MINIMUM}[network]\ncard.x = user\n`, /^vm\.ini:5: there is no 'card.x'/],
    [`${MINIMUM}[shares]\nshare.0 = src\n`, /^vm\.ini:5: 'share.0': /],
    ['memory = 1G\n[vm]\n[boot]\nkernel=k\n', /^vm\.ini:1: 'memory' is in no section/],
    ['[vm]\nuser = "root; rm"\n[boot]\nkernel=k\n', /^vm\.ini:2: 'user': is no user name/],
  ])('%j', (text, message) => {
    expect(errorOf(text)).toMatch(message);
  });
});

test('whatever a file holds, it is read or refused by name and line', () => {
  const random = new Random(7);
  const words = [
    '[vm]',
    '[boot]',
    '[disk.0]',
    'memory',
    'kernel',
    'file',
    '=',
    '1G',
    '"',
    ';',
    '#',
    '\n',
    '\n',
    ' ',
    '\0',
    '[',
    ']',
    '__proto__',
    '\\',
    'é',
    "'{}'",
  ];
  let refused = 0;
  for (let i = 0; i < 5000; i++) {
    const text = Array.from({ length: random.between(1, 40) }, () => random.pick(words)).join('');
    try {
      parseVmIni(text, 'vm.ini');
    } catch (error) {
      expect(error).toBeInstanceOf(IniError);
      expect((error as Error).message).toMatch(/^vm\.ini:\d+: ./);
      refused++;
    }
  }
  expect(refused).toBeGreaterThan(4000);
});
