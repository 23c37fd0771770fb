/** The package as npm has it, but for the building of its addon (test/soak): what it has, and that it works there. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { packageRoot } from '../../images/debian/cache.ts';
import { buildGuestProgram } from '../guests/build.ts';
import { InstalledPackage } from '../support/package.ts';
import { readmePrograms } from '../support/readme.ts';

let own: InstalledPackage;

beforeAll(async () => {
  own = await InstalledPackage.install('copied');
}, 300_000);
afterAll(() => own.remove());

test('its command runs', async () => {
  const { version } = JSON.parse(readFileSync(join(packageRoot(), 'package.json'), 'utf8')) as {
    version: string;
  };
  expect(await own.run('npx', 'tsvm', '--version')).toBe(version);
  expect(await own.run('npx', 'tsvm', 'image', 'ls', '--all')).toContain('ubuntu');
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
])(
  'a program that is %s has its types, and runs a VM',
  async (_, file, program) => {
    const disk = join(own.folder, 'disk.raw');
    writeFileSync(disk, Buffer.alloc(1 << 20));
    const { elf } = await buildGuestProgram('echo');
    own.write(
      file,
      program.replace('BODY', () => dialogue(disk, elf)),
    );
    // Types that are not found would be `any`, and this no error.
    const wrong = `wrong-${file}`;
    own.write(wrong, program.replace('BODY', "const n: number = Vm.get('x').name; void n;"));
    expect(await own.compile(file, wrong)).toMatch(
      new RegExp(`^${wrong}.*error TS2322: Type 'string' is not assignable to type 'number'\\.$`),
    );
    expect(await own.run(process.execPath, file.replace(/ts$/, 'js'))).toBe('0');
  },
  120_000,
);

test("the README's programs are right as to types", async () => {
  const programs = readmePrograms();
  expect(programs.length).toBeGreaterThanOrEqual(2);
  const names = programs.map((program, i) => {
    own.write(`readme-${i}.mts`, program);
    return `readme-${i}.mts`;
  });
  expect(await own.compile(...names)).toBe('');
});
