import { constants } from 'node:os';
import { describe, expect, test } from 'vitest';
import { EXIT, exitName, REQUIRED_CAPABILITIES, CAP } from '../../../src/kvm/constants.ts';
import { KvmCapabilityError, KvmError } from '../../../src/kvm/errors.ts';

const { errno } = constants;

describe('KvmError', () => {
  test('says which call failed, for what and how', () => {
    const error = new KvmError(errno.EINVAL, 'ioctl', 'KVM_CREATE_VCPU');
    expect(error).toBeInstanceOf(Error);
    expect(error).toMatchObject({
      name: 'KvmError',
      message: 'ioctl KVM_CREATE_VCPU: EINVAL',
      code: 'EINVAL',
      errno: errno.EINVAL,
      syscall: 'ioctl',
      request: 'KVM_CREATE_VCPU',
    });
    expect(error.hint).toBeUndefined();
  });

  test('an object that is closed is said to be', () => {
    expect(new KvmError(errno.EBADF, 'closed', 'VM').message).toBe('VM is closed');
  });

  test('an error without a name has its number', () => {
    expect(new KvmError(9999, 'ioctl', 'KVM_RUN').code).toBe('E9999');
  });

  test.each([
    [errno.ENOENT, 'open', '/dev/kvm', 'modprobe'],
    [errno.EACCES, 'open', '/dev/kvm', 'usermod -aG kvm'],
    [errno.EBUSY, 'ioctl', 'KVM_CREATE_VM', 'another hypervisor'],
    [errno.ENOMEM, 'mmap', 'anonymous', 'less memory'],
    [errno.ENOMEM, 'ioctl', 'KVM_CREATE_VM', 'memory on the host'],
    [errno.EMFILE, 'eventfd', 'event', 'ulimit -n'],
    [errno.ENOTTY, 'ioctl', 'KVM_GET_API_VERSION', '/dev/kvm'],
  ])('error %d of %s %s has a hint', (number, syscall, request, hint) => {
    expect(new KvmError(number, syscall, request).hint).toContain(hint);
  });
});

test('KvmCapabilityError names all that is missing', () => {
  const error = new KvmCapabilityError(['KVM_CAP_IRQFD', 'KVM_CAP_XSAVE']);
  expect(error.message).toBe('KVM on this host lacks KVM_CAP_IRQFD, KVM_CAP_XSAVE');
  expect(error.missing).toEqual(['KVM_CAP_IRQFD', 'KVM_CAP_XSAVE']);
});

test('every required capability is named once and says what for', () => {
  const names = REQUIRED_CAPABILITIES.map(({ name }) => name);
  expect(new Set(names).size).toBe(names.length);
  for (const { name, purpose } of REQUIRED_CAPABILITIES) {
    expect(CAP).toHaveProperty(name);
    expect(purpose).not.toBe('');
  }
});

test('exits are called by their names, unknown ones by their number', () => {
  expect([EXIT.hlt, EXIT.shutdown, EXIT.runFailed].map(exitName)).toEqual(['hlt', 'shutdown', 'runFailed']);
  expect(exitName(99)).toBe('exit 99');
});
