/** The package as npm publishes it, installed into a project that has nothing else. */
import { execa } from 'execa';
import { cpSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { packageRoot } from '../../images/debian/cache.ts';

const TOOLS = join(packageRoot(), 'node_modules');
const COMPILE = [
  ...['--strict', '--skipLibCheck', '--module', 'node16', '--target', 'es2022'],
  ...['--lib', 'es2023,esnext.disposable', '--typeRoots', join(TOOLS, '@types'), '--types', 'node'],
];

export class InstalledPackage {
  readonly folder = mkdtempSync(join(tmpdir(), 'tsvm-package-'));
  readonly project = join(this.folder, 'project');
  /** of the VMs of this project */
  readonly home = join(this.folder, 'home');

  /** @param addon it is built as npm does it, which takes minutes; or is the one of this tree */
  static async install(addon: 'built' | 'copied'): Promise<InstalledPackage> {
    const own = new InstalledPackage();
    const npm = (args: readonly string[], cwd: string) => execa('npm', args, { cwd });
    // The bundle is there: other tests run it meanwhile.
    await npm(['run', 'types'], packageRoot());
    const { stdout } = await npm(
      ['pack', '--json', '--ignore-scripts', '--pack-destination', own.folder],
      packageRoot(),
    );
    const [{ filename }] = JSON.parse(stdout) as [{ filename: string }];
    mkdirSync(own.project);
    writeFileSync(join(own.project, 'package.json'), '{ "name": "own", "private": true }\n');
    const options = ['--no-audit', '--no-fund', '--prefer-offline', '--omit=dev'];
    const scripts = addon === 'built' ? [] : ['--ignore-scripts'];
    await npm(['install', ...options, ...scripts, join(own.folder, filename)], own.project);
    if (addon === 'copied') {
      const place = 'build/Release';
      cpSync(join(packageRoot(), place), join(own.project, 'node_modules/tsvm', place), { recursive: true });
    }
    return own;
  }

  /** A file of the project. */
  write(name: string, content: string | Uint8Array): string {
    const path = join(this.project, name);
    writeFileSync(path, content);
    return path;
  }

  /** Runs a command in the project; @returns its standard output */
  async run(command: string, ...args: readonly string[]): Promise<string> {
    const { stdout } = await execa(command, args, { cwd: this.project, env: { TSVM_HOME: this.home } });
    return stdout;
  }

  /** Makes JavaScript of TypeScript, beside it; @returns what is wrong with it */
  async compile(...names: readonly string[]): Promise<string> {
    const tsc = join(TOOLS, 'typescript/bin/tsc');
    const { stdout } = await execa(process.execPath, [tsc, ...COMPILE, ...names], {
      cwd: this.project,
      reject: false,
    });
    return stdout;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
