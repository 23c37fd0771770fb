import { spawnSync } from 'node:child_process';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { KvmError } from '../../src/kvm/errors.ts';
import { createEventFd, createTimer } from '../../src/kvm/events.ts';
import { Kvm, openKvm } from '../../src/kvm/system.ts';
import { bundleScript } from '../support/bundle-script.ts';
import { longModeVm } from '../support/long-mode.ts';

function thrown(body: () => unknown): KvmError {
  try {
    body();
  } catch (error) {
    expect(error).toBeInstanceOf(KvmError);
    return error as KvmError;
  }
  throw new Error('nothing was thrown');
}

describe('opening', () => {
  test('a path that is not there: ENOENT with the path', () => {
    const error = thrown(() => openKvm('/dev/no-such-kvm'));
    expect(error).toMatchObject({ code: 'ENOENT', errno: 2, syscall: 'open', request: '/dev/no-such-kvm' });
    expect(error.message).toBe('open /dev/no-such-kvm: ENOENT');
  });

  test.each(['/dev/null', '/dev/zero'])('%s is no KVM: ENOTTY, and a hint', (path) => {
    const error = thrown(() => openKvm(path));
    expect(error).toMatchObject({ code: 'ENOTTY', syscall: 'ioctl', request: 'KVM_GET_API_VERSION' });
    expect(error.hint).toContain('/dev/kvm');
  });

  test('a directory: EISDIR', () => {
    expect(thrown(() => openKvm('/dev'))).toMatchObject({ code: 'EISDIR', syscall: 'open' });
  });

  test('a path with a NUL is not cut at it', () => {
    expect(() => new Kvm('/dev/kvm\0x')).toThrow(RangeError);
  });

  // whoever is not root, and not in the device's group, may not open it
  test.skipIf(process.getuid?.() !== 0)('without the right to: EACCES, and a hint', async () => {
    const script = await bundleScript(`
      import { native } from './src/kvm/native.ts';
      import { openKvm } from './src/kvm/system.ts';
      native();
      process.setgroups!([]);
      process.setegid!(65534);
      process.seteuid!(65534);
      try {
        openKvm();
        console.log('opened');
      } catch ({ code, syscall, request, hint }) {
        console.log(JSON.stringify({ code, syscall, request, hint }));
      }`);
    const child = spawnSync(process.execPath, [script], { encoding: 'utf8' });
    expect(child.stderr).toBe('');
    if (child.stdout.trim() === 'opened') return; // a device that everybody may open
    const error = JSON.parse(child.stdout) as Record<string, string>;
    expect(error).toMatchObject({ code: 'EACCES', syscall: 'open', request: '/dev/kvm' });
    expect(error['hint']).toContain('usermod -aG kvm');
  });

  test('openKvm() that fails leaves no descriptor open', async () => {
    const { readdirSync } = await import('node:fs');
    const count = () => readdirSync('/proc/self/fd').length;
    const before = count();
    for (let i = 0; i < 50; i++) thrown(() => openKvm('/dev/null'));
    expect(count()).toBe(before);
  });
});

describe('requests that KVM refuses', () => {
  test('name the request', () => {
    const { vm, ram } = longModeVm([0xf4]);
    expect(thrown(() => vm.native.createVcpu(0))).toMatchObject({
      code: 'EEXIST',
      syscall: 'ioctl',
      request: 'KVM_CREATE_VCPU',
    });
    expect(thrown(() => vm.native.createVcpu(100_000))).toMatchObject({ code: 'EINVAL' });
    expect(thrown(() => vm.native.getState('pit2'))).toMatchObject({ request: 'KVM_GET_PIT2' });
    expect(thrown(() => vm.native.getState('irqchip', 0))).toMatchObject({
      code: 'ENXIO',
      request: 'KVM_GET_IRQCHIP',
    });
    expect(thrown(() => vm.native.irqfd({ fd: 0, gsi: 5 }))).toMatchObject({ request: 'KVM_IRQFD' });
    expect(
      thrown(() => vm.native.ioeventfd({ fd: 99_999, space: 'pio', address: 0x10, size: 2 })),
    ).toMatchObject({ code: 'EBADF', request: 'KVM_IOEVENTFD' });
    expect(thrown(() => vm.native.enableCapability(0xffff))).toMatchObject({ request: 'KVM_ENABLE_CAP' });
    vm.close();
    ram.close();
  });
});

describe('use after close', () => {
  const kvm = openKvm();
  const { vm, ram, vcpu } = longModeVm([0xf4], { irqchip: true });
  const [fd, timer] = [createEventFd(), createTimer()];
  beforeAll(() => {
    for (const each of [kvm, vm, ram, fd, timer]) each.close();
  });
  afterAll(() => {
    for (const each of [kvm, vm, ram, fd, timer]) each.close();
  });

  const uses: [string, () => unknown][] = [
    ['Kvm.apiVersion', () => kvm.apiVersion()],
    ['Kvm.capability', () => kvm.capability('KVM_CAP_IRQFD')],
    ['Kvm.supportedCpuid', () => kvm.supportedCpuid()],
    ['Kvm.msrIndices', () => kvm.msrIndices()],
    ['Vm.checkExtension', () => vm.capability('KVM_CAP_IRQFD')],
    ['Vm.createVcpu', () => vm.createVcpu()],
    ['Vm.mapRam', () => vm.mapRam(ram)],
    ['Vm.dirtyLog', () => vm.native.dirtyLog(0)],
    ['Vm.irqLine', () => vm.native.irqLine(4, true)],
    ['Vm.irqfd', () => vm.native.irqfd({ fd: 0, gsi: 1 })],
    ['Vm.signalMsi', () => vm.native.signalMsi(0xfee00000, 0, 0x40)],
    ['Vm.getState', () => vm.native.getState('clock')],
    ['Vm.removeRegion', () => vm.native.removeRegion(0)],
    ['Vm.setActive', () => vm.native.setActive(true)],
    ['Vm.add', () => vm.add({ name: 'x', space: 'pio', base: 0, size: 1, reads: 'trap', writes: 'trap' })],
    ['Vcpu.resume', () => vcpu.native.resume()],
    ['Vcpu.requestPause', () => vcpu.native.requestPause()],
    ['Vcpu.parked', () => vcpu.native.parked],
    ['Vcpu.regs', () => vcpu.regs()],
    ['Vcpu.setState', () => vcpu.setState('regs', new Uint8Array(144))],
    ['Vcpu.msrs', () => vcpu.msrs([0x10])],
    ['Vcpu.getCpuid', () => vcpu.native.getCpuid()],
    ['Vcpu.translate', () => vcpu.translate(0n)],
    ['Vcpu.control', () => vcpu.native.control('nmi')],
    ['Memory.size', () => ram.native.size],
    ['Memory.window', () => ram.native.window(0, 4096)],
    ['Memory.discard', () => ram.native.discard(Float64Array.of(0, 4096), 1)],
    ['EventFd.fd', () => fd.fd],
    ['EventFd.watch', () => fd.watch()],
    ['EventFd.signal', () => fd.signal()],
    ['EventFd.drain', () => fd.drain()],
    ['Timer.arm', () => timer.arm(1)],
  ];

  test.each(uses)('%s is EBADF', (_, use) => {
    const error = thrown(use);
    expect(error).toMatchObject({ code: 'EBADF', syscall: 'closed' });
    expect(error.message).toMatch(/ is closed$/);
  });
});
