/** The story of a VM that is kept, with a stock Debian: the built command line, start to end. */
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { buildDebian } from '../../images/debian/system.ts';
import type { ExecResult } from '../lab/commands.ts';
import type { GuestHost } from '../lab/host.ts';
import { unpackAhead } from '../support/unpack-ahead.ts';
import { openHost, TSVM } from './support.ts';

const BOOT_LIMIT_MS = 900_000;
const STEP_LIMIT_MS = 480_000;
const NAME = 'debian';

let host: GuestHost;
let home: string;

function tsvm(...args: readonly string[]): Promise<ExecResult> {
  const line = ['env', `TSVM_HOME=${home}`, 'node', TSVM, ...args];
  return host.exec(line, { timeoutMs: STEP_LIMIT_MS });
}

async function ok(...args: readonly string[]): Promise<string> {
  const { code, stdout, stderr } = await tsvm(...args);
  if (code !== 0) throw new Error(`tsvm ${args.join(' ')}: status ${code}: ${stdout}${stderr}`);
  return stdout;
}

beforeAll(async () => {
  host = await openHost();
  home = join(host.scratch, 'vms-home');
  const system = await buildDebian();
  await unpackAhead(system.kernel);
  const base = await host.debianDisk('vms-base.qcow2', 'compressed');
  await ok(
    ...[
      'create',
      base,
      NAME,
      '--format',
      'qcow2',
      '--mem',
      '1G',
      '--disk',
      '8G',
      '--user',
      system.login.user,
    ],
    ...[
      '--kernel',
      system.kernel,
      '--initrd',
      system.initrd,
      '--cmdline',
      `${system.cmdline} console=ttyS0 quiet`,
    ],
  );
}, BOOT_LIMIT_MS);

afterAll(async () => {
  await tsvm('delete', '--force', NAME);
  await host.exec(`rm -rf '${home}' '${host.scratch}/vms-base.qcow2'`);
  await host.close();
});

test(
  'is started, worked with, stopped, and has its files when it starts again',
  async () => {
    await ok('start', NAME);
    await ok('wait', '--for', 'agent', '--timeout', '450', NAME);
    expect(await ok('exec', NAME, '--', 'uname', '-sr')).toMatch(/^Linux 6\.\d+/);
    expect(await tsvm('exec', NAME, '--', 'sh', '-c', 'echo out; echo err >&2; exit 7')).toMatchObject({
      ...{ code: 7, stdout: 'out\n', stderr: 'err\n' },
    });
    const sum = await host.exec(
      `head -c 3M /dev/urandom > '${home}/data'; md5sum < '${home}/data';
       TSVM_HOME='${home}' node '${TSVM}' exec -i ${NAME} -- sh -c 'tee /root/data | md5sum' < '${home}/data';
       TSVM_HOME='${home}' node '${TSVM}' exec ${NAME} -- cat /root/data | md5sum`,
      { timeoutMs: STEP_LIMIT_MS },
    );
    const sums = sum.stdout.trim().split('\n');
    expect([sums.length, new Set(sums).size, sum.stderr]).toEqual([3, 1, '']);
    expect(await ok('exec', '-t', NAME, '--', 'sh', '-c', "tty; stty size; echo it''s; exit")).toMatch(
      /^\/dev\/pts\/\d+\r\n24 80\r\nits\r\n$/,
    );
    expect(
      (await host.exec(`echo 'id -un; exit 3' | TSVM_HOME='${home}' node '${TSVM}' shell ${NAME}`)).code,
    ).toBe(3);
    await ok('exec', NAME, '--', 'sh', '-c', 'echo kept > /root/file; sync');
    await ok('wait', '--for', 'login', '--timeout', '450', NAME);
    expect(await ok('logs', '-n', '5', NAME)).toContain('login:');
    const [row] = JSON.parse(await ok('list', '--json')) as { name: string; state: string; memory: number }[];
    expect(row).toMatchObject({ name: NAME, state: 'running', memory: 2 ** 30 });

    const stopped = await tsvm('stop', '--timeout', '300', NAME);
    expect(stopped).toMatchObject({ code: 0, stderr: '' });
    expect(await ok('list')).toMatch(/debian +stopped/);
    await ok('start', NAME);
    await ok('wait', '--for', 'agent', '--timeout', '450', NAME);
    expect(await ok('exec', NAME, '--', 'cat', '/root/file')).toBe('kept\n');
    await ok('kill', NAME);
    await ok('delete', NAME);
    expect(await ok('list', '-q')).toBe('');
  },
  BOOT_LIMIT_MS,
);
