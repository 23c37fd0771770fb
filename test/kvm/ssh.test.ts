/** `tsvm ssh`: what the host's ssh makes of the arguments that it is given, and what is told where it cannot be. */
import { execa } from 'execa';
import { existsSync, mkdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { TSVM, VmHome } from '../support/vm-home.ts';
import { buildGuestProgram } from '../guests/build.ts';

let home: VmHome;
let disk: string;

beforeEach(() => {
  home = new VmHome();
  disk = join(home.folder, 'disk.raw');
});
afterEach(() => home.remove());

const hasSsh = await execa('ssh', ['-V'], { reject: false }).then(({ exitCode }) => exitCode === 0);
const folderOf = (name: string): string => join(home.env.TSVM_HOME, 'vms', name);

async function create(name: string, ...args: readonly string[]): Promise<void> {
  const { elf } = await buildGuestProgram('echo');
  await home.ok('create', disk, name, '--kernel', elf, '--mem', '32M', ...args);
}

/** What ssh itself makes of the command line that is printed. */
async function configOf(name: string, ...args: readonly string[]): Promise<Map<string, string>> {
  const printed = await home.ok('ssh', '--print', ...args, name);
  const { stdout } = await execa('sh', [
    '-c',
    `set -- ${printed.trim()}; shift; exec ssh -F /dev/null -G "$@"`,
  ]);
  return new Map(stdout.split('\n').map((line) => [line.split(' ')[0]!, line.slice(line.indexOf(' ') + 1)]));
}

test('a VM has a key, and it is the one that its guest is told of', async () => {
  writeFileSync(join(home.folder, 'user-data'), '#cloud-config\n');
  await create(
    'web',
    '--net',
    'user',
    '--publish',
    '2222:22',
    '--cloud-init',
    join(home.folder, 'user-data'),
  );
  const key = join(home.env.TSVM_HOME, 'ssh/id_ed25519');
  expect(statSync(key).mode & 0o777).toBe(0o600);
  const { stdout } = await execa('ssh-keygen', ['-y', '-f', key]);
  expect(stdout).toMatch(/^ssh-ed25519 \S+ tsvm$/);
  expect(readFileSync(join(folderOf('web'), 'seed.img'), 'latin1')).toContain(stdout);
  const before = readFileSync(key, 'utf8');
  await create('other', '--cloud-init', join(home.folder, 'user-data'));
  expect(readFileSync(key, 'utf8')).toBe(before);
});

test.skipIf(!hasSsh)('ssh gets port, user, key and a file of its own for the host key', async () => {
  writeFileSync(join(home.folder, 'user-data'), '#cloud-config\n');
  const seed = ['--cloud-init', join(home.folder, 'user-data')];
  await create(
    'web',
    '--publish',
    '8080:80',
    '--publish',
    '127.0.0.1:2200-2209:20-29',
    '--user',
    'debian',
    ...seed,
  );
  const config = await configOf('web');
  const expected = {
    hostname: '127.0.0.1',
    port: '2202',
    user: 'debian',
    identityfile: join(home.env.TSVM_HOME, 'ssh/id_ed25519'),
    identitiesonly: 'yes',
    userknownhostsfile: join(folderOf('web'), 'ssh_known_hosts'),
    globalknownhostsfile: '/dev/null',
    hostkeyalias: 'tsvm-guest',
    stricthostkeychecking: 'accept-new',
  };
  expect(Object.fromEntries(Object.keys(expected).map((key) => [key, config.get(key)]))).toEqual(expected);
  expect((await configOf('web', '--user', 'root')).get('user')).toBe('root');
});

test.skipIf(!hasSsh)('a key of the user is used where its private part is beside it', async () => {
  const own = join(home.folder, 'my keys');
  mkdirSync(own);
  await execa('ssh-keygen', ['-q', '-t', 'ed25519', '-N', '', '-f', join(own, 'id 100%')]);
  await create('web', '--publish', '*:2222:22', '--ssh-key', join(own, 'id 100%.pub'));
  const config = await configOf('web');
  // ssh shows it before it looks for tokens, of which `%%` is a plain percent sign.
  expect([config.get('identityfile'), config.get('hostname')]).toEqual([join(own, 'id 100%%'), '127.0.0.1']);
  expect(existsSync(join(home.env.TSVM_HOME, 'ssh'))).toBe(false);
});

test('without a way to it, it is told what to do', async () => {
  await create('none', '--net', 'user', '--publish', '2222:22/udp');
  await create('free', '--publish', '0:22');
  await create('well', '--publish', '2222:22');
  for (const [name, message, hint] of [
    ['none', "port 22 of the VM 'none' is not published", '`publish.1 = 2222:22` under [network]'],
    ['free', 'at a port that nobody knows before it runs', '`tsvm shell free` needs no port'],
    ['well', "the VM 'well' is not running", '`tsvm start well`'],
    ['elsewhere', "there is no VM 'elsewhere'", 'tsvm list'],
  ] as const) {
    const { code, stdout, stderr } = await home.tsvm('ssh', name);
    expect([code, stdout, stderr]).toEqual([1, '', expect.stringContaining(message)]);
    expect(stderr).toContain(hint);
  }
});

test('arguments go to ssh behind the host', async () => {
  await create('web', '--publish', '2222:22');
  expect(await home.ok('ssh', '--print', 'web', '--', '-N', '-L', '8080:localhost:80')).toMatch(
    / 127\.0\.0\.1 -N -L 8080:localhost:80\n$/,
  );
  expect(await home.ok('ssh', '--print', 'web', 'echo', "it's")).toMatch(/ 127\.0\.0\.1 echo 'it'\\''s'\n$/);
});

test('the exit status is that of ssh, and its absence is told', async () => {
  await home.create('web');
  const ini = join(folderOf('web'), 'vm.ini');
  await home.ok('start', 'web');
  // Nothing of the network is started again: nobody listens there.
  writeFileSync(ini, readFileSync(ini, 'utf8').replace(';publish.0 =', 'publish.0 = 1:22'));
  if (hasSsh) {
    const { code, stderr } = await home.tsvm('ssh', 'web', '--', 'true');
    expect([code, stderr]).toEqual([255, expect.stringContaining('Connection refused')]);
  }
  const env = { ...home.env, PATH: '/nowhere' };
  const { exitCode, stderr } = await execa(process.execPath, [TSVM, 'ssh', 'web'], { env, reject: false });
  expect([exitCode, stderr]).toEqual([127, expect.stringContaining('there is no ssh on this host')]);
});
