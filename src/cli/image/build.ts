import { existsSync } from 'node:fs';
import { join } from 'node:path';
import type { Command } from 'commander';

import { packageRoot } from '../../kvm/package-root.ts';
import { UsageError } from '../errors.ts';
import { addVerb, type Done } from '../verb.ts';

const EXAMPLES = ['tsvm image build debian', 'tsvm image build debian --size 8G --package git'];

const HELP = `
Takes a checkout of tsvm: its images/debian builds the system, with mmdebstrap and other tools of Debian. All options
are passed on: \`npm run image -- --help\` lists them.`;

/** `tsvm image build`: an image from packages, where no server has one. */
export function addBuild(image: Command, done: Done): void {
  addVerb(image, 'build', 'build an image from Debian packages', EXAMPLES)
    .argument('<distribution>', 'debian')
    .argument('[options...]', 'options of the build')
    .allowUnknownOption()
    .addHelpText('after', HELP)
    .action(async (distribution: string, options: readonly string[]) => {
      if (distribution !== 'debian')
        throw new UsageError(`${distribution} cannot be built from packages`, 'debian can');
      const root = packageRoot();
      const [program, loader] = [join(root, 'images/debian/build.ts'), join(root, 'node_modules/.bin/tsx')];
      if (!existsSync(program) || !existsSync(loader)) {
        throw new UsageError(
          'this is no checkout of tsvm with its development packages, and only these have what builds images',
          'clone the repository and run `npm ci`; or `tsvm image pull debian`',
        );
      }
      const { execa } = await import('execa');
      const { exitCode } = await execa(loader, [program, '--import', ...options], {
        stdio: 'inherit',
        reject: false,
      });
      done(exitCode ?? 1);
    });
}
