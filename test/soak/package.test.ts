/** The package as npm publishes it, in a project that has nothing else: what it has, and that it works there. */
import { execa } from 'execa';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { buildGuestProgram } from '../guests/build.ts';

/** The addon is built where the package is installed. */
const INSTALL_LIMIT_MS = 900_000;

let folder: string;
let project: string;

const run = (command: string, args: readonly string[], cwd = project) =>
  execa(command, args, { cwd, env: { TSVM_HOME: join(folder, 'home') } });

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-package-'));
  project = join(folder, 'project');
  mkdirSync(project);
  await run('npm', ['run', 'build:js'], packageRoot());
  const { stdout } = await run(
    'npm',
    ['pack', '--json', '--ignore-scripts', '--pack-destination', folder],
    packageRoot(),
  );
  const [{ filename }] = JSON.parse(stdout) as [{ filename: string }];
  writeFileSync(join(project, 'package.json'), '{ "name": "own", "private": true }\n');
  await run('npm', ['install', '--no-audit', '--no-fund', join(folder, filename)]);
}, INSTALL_LIMIT_MS);
afterAll(() => rmSync(folder, { recursive: true, force: true }));

test('its command runs', async () => {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
  };
  expect((await run('npx', ['tsvm', '--version'])).stdout).toBe(version);
  expect((await run('npx', ['tsvm', 'image', 'ls', '--all'])).stdout).toContain('ubuntu');
});

/** A VM of the guest that echoes what is typed (test/guests/echo), from its making to its end. */
const dialogue = (disk: string, kernel: string): string => `
  {
    await using vm = await Vm.create({
      name: 'test', disk: { path: '${disk}', format: 'raw' }, kernel: '${kernel}', memory: 2 ** 25,
      networks: ['none'], temporary: true,
    });
    await vm.start();
    await vm.serial.expect('echo: ready');
    await vm.serial.send('hello\\n');
    await vm.serial.expect('hello');
  }
  console.log(Vm.list().length);`;

test.each([
  ['an ES module', 'program.mts', `import { Vm } from 'tsvm';\nBODY\nexport {};`],
  [
    'CommonJS',
    'program.cts',
    `import tsvm = require('tsvm');\nconst { Vm } = tsvm;\nvoid (async () => {BODY})();`,
  ],
])('a program that is %s has its types, and runs a VM', async (_, file, program) => {
  const disk = join(folder, 'disk.raw');
  writeFileSync(disk, Buffer.alloc(1 << 20));
  const { elf } = await buildGuestProgram('echo');
  writeFileSync(
    join(project, file),
    program.replace('BODY', () => dialogue(disk, elf)),
  );
  // Types that are not found would be `any`, and this no error.
  const wrong = `wrong-${file}`;
  writeFileSync(join(project, wrong), program.replace('BODY', "const n: number = Vm.get('x').name; void n;"));
  const tsc = join(packageRoot(), 'node_modules/typescript/bin/tsc');
  const types = join(packageRoot(), 'node_modules/@types');
  const options = ['--strict', '--skipLibCheck', '--module', 'node16', '--target', 'es2022'];
  const libraries = ['--lib', 'es2023,esnext.disposable', '--typeRoots', types, '--types', 'node'];
  const compile = (name: string) =>
    execa(process.execPath, [tsc, ...options, ...libraries, name], { cwd: project, reject: false });
  expect((await compile(wrong)).stdout).toMatch(
    /^[^\n]*error TS2322: Type 'string' is not assignable to type 'number'\.$/,
  );
  expect((await compile(file)).stdout).toBe('');
  expect((await run(process.execPath, [file.replace(/ts$/, 'js')])).stdout).toBe('0');
});

test("the README's programs are right as to types", async () => {
  const readme = readFileSync(join(packageRoot(), 'README.md'), 'utf8');
  const programs = [...readme.matchAll(/```ts\n(.*?)```/gs)].map((match) => match[1]!);
  expect(programs.length).toBeGreaterThanOrEqual(2);
  const names = programs.map((program, i) => {
    writeFileSync(join(project, `readme-${i}.mts`), program);
    return `readme-${i}.mts`;
  });
  const tsc = join(packageRoot(), 'node_modules/typescript/bin/tsc');
  const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'node16', '--target', 'es2022'];
  const types = [
    '--lib',
    'es2023,esnext.disposable',
    '--typeRoots',
    join(packageRoot(), 'node_modules/@types'),
    '--types',
    'node',
  ];
  expect(
    (await execa(process.execPath, [tsc, ...options, ...types, ...names], { cwd: project, reject: false }))
      .stdout,
  ).toBe('');
});
