import { describe, expect, it } from 'vitest';
import { networkOptionsOf } from '../../../../src/manager/vmm/vm-options.ts';
import { withConsole } from '../../../../src/manager/vms/command-line.ts';

describe('networks of VMs', () => {
  const namesOf = (...cards: string[]): unknown[] =>
    networkOptionsOf({ cards, publish: [], hostAccess: false }, 'web').map((each) =>
      each.kind === 'vmnet' ? [each.network, each.name] : each.kind,
    );

  it('call a VM by its name, unless it is given another one', () => {
    expect(namesOf('vmnet=lan', 'vmnet=dmz,name=www', 'user')).toEqual([
      ['lan', 'web'],
      ['dmz', 'www'],
      'user',
    ]);
  });

  it('have a name once', () => {
    expect(namesOf('vmnet=lan', 'vmnet=lan')).toEqual([
      ['lan', 'web'],
      ['lan', undefined],
    ]);
  });
});

describe('a command line', () => {
  it.each([
    ['', 'serial', 'console=ttyS0'],
    ['root=LABEL=x ro', 'serial', 'root=LABEL=x ro console=ttyS0'],
    ['ro console=tty1', 'hvc0', 'ro console=tty1 console=hvc0'],
    ['console=ttyS0,115200 ro', 'serial', 'console=ttyS0,115200 ro'],
    ['ro console=ttyS0', 'serial', 'ro console=ttyS0'],
    ['console=ttyS01', 'serial', 'console=ttyS01 console=ttyS0'],
  ] as const)("'%s' with %s is '%s'", (line, console, whole) => {
    expect(withConsole(line, console)).toBe(whole);
  });
});
