import { chmodSync } from 'node:fs';
import { join } from 'node:path';

import { describe, expect, it } from 'vitest';

import { toolChecks } from '../../../src/manager/doctor/tools.ts';
import { fakeHost, ROOT } from './fake-host.ts';

function script(output: string, status = 0): string {
  return `#!/bin/sh\n[ "$1" = --version ] || exit 9\ncat <<'END'\n${output}\nEND\nexit ${status}\n`;
}

async function fixes(osRelease: string): Promise<(string | undefined)[]> {
  return (await toolChecks(fakeHost({ '/etc/os-release': osRelease }))).map(({ fix }) => fix);
}

describe('the tools', () => {
  it('are found in PATH with their versions', async () => {
    const host = fakeHost({
      '/bin/passt': script('passt 0.0~git20230309.7c7625d-1\nCopyright Red Hat'),
      '/bin/qemu-img': script('qemu-img version 7.2.22 (Debian 1:7.2+dfsg-7)\nCopyright'),
      '/bin/mmdebstrap': script('mmdebstrap 1.3.5'),
    });
    const checks = await toolChecks(host);
    expect(checks.map(({ id, status, detail }) => [id, status, detail])).toEqual([
      ['passt', 'ok', `0.0~git20230309.7c7625d-1 (${host.path}/passt)`],
      ['qemu-img', 'ok', `7.2.22 (${host.path}/qemu-img)`],
      ['mmdebstrap', 'ok', `1.3.5 (${host.path}/mmdebstrap)`],
    ]);
  });

  it('that do not run are a warning', async () => {
    const host = fakeHost({ '/bin/passt': script('cannot execute 32', 1) });
    expect((await toolChecks(host))[0]).toMatchObject({
      status: 'warning',
      detail: `${host.path}/passt does not tell its version`,
    });
  });

  it('must be executable files', async () => {
    const host = fakeHost({ '/bin/passt': script('passt 1.0'), '/bin/qemu-img/file': '' });
    chmodSync(join(host.path, 'passt'), 0o644);
    const [passt, qemuImg] = await toolChecks(host);
    expect(passt?.detail).toBe('not found');
    expect(qemuImg?.detail).toBe('not found');
  });

  it.each([
    ['ID=debian\n', ['sudo apt install passt', 'sudo apt install qemu-utils', 'sudo apt install mmdebstrap']],
    [
      'NAME="Linux Mint"\nID=linuxmint\nID_LIKE="ubuntu debian"\n',
      ['sudo apt install passt', 'sudo apt install qemu-utils', 'sudo apt install mmdebstrap'],
    ],
    [
      'ID="rocky"\nID_LIKE="rhel centos fedora"\n',
      ['sudo dnf install passt', 'sudo dnf install qemu-img', 'sudo dnf install mmdebstrap'],
    ],
  ])('name the command that installs them: %j', async (osRelease, commands) => {
    expect(await fixes(osRelease)).toEqual(commands);
  });

  it('name their home where the distribution is known to have no package', async () => {
    expect(await fixes('ID=arch\n')).toEqual([
      'sudo pacman -S passt',
      'sudo pacman -S qemu-img',
      'install mmdebstrap (https://gitlab.mister-muffin.de/josch/mmdebstrap)',
    ]);
    expect((await fixes('ID="opensuse-tumbleweed"\nID_LIKE="opensuse suse"\n'))[0]).toBe(
      'sudo zypper install passt',
    );
  });

  it('name their home on an unknown distribution', async () => {
    expect((await fixes('ID=plan9\n'))[0]).toBe('install passt (https://passt.top)');
    expect((await toolChecks(fakeHost()))[1]?.fix).toBe('install qemu-img (https://www.qemu.org)');
  });

  it('are warnings for root without sudo when missing', async () => {
    const [passt] = await toolChecks(fakeHost({ '/etc/os-release': 'ID=ubuntu\n' }, ROOT));
    expect(passt).toMatchObject({ status: 'warning', detail: 'not found', fix: 'apt install passt' });
  });
});
