import { expect, it } from 'vitest';
import { checkVmName, VmNameError } from '../../../../src/manager/vms/name.ts';

it.each(['a', 'web', 'web-2', '0', 'a'.repeat(63)])('%s is a name', (name) => {
  expect(checkVmName(name)).toBe(name);
});

it.each([
  '',
  '.',
  '..',
  '../x',
  'a/b',
  '/etc',
  '-a',
  'a-',
  'A',
  'ä',
  'a b',
  'a\n',
  'a\0',
  '.new-a',
  'a'.repeat(64),
  '$(id)',
])('%j is none', (name) => {
  expect(() => checkVmName(name)).toThrow(VmNameError);
});
