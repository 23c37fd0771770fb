import { release } from 'node:os';

import type { Command } from 'commander';

import { EXIT } from './exit-codes.ts';
import { packageVersion } from '../kvm/package-version.ts';
import { addVerb, type Done } from './verb.ts';

const EXAMPLES = ['tsvm version', 'tsvm version --json'];

/** `tsvm version`: the versions that a bug report needs. */
export function addVersion(program: Command, done: Done): void {
  addVerb(program, 'version', 'print the versions of tsvm, Node.js, the kernel and KVM', EXAMPLES)
    .option('--json', 'print a JSON object')
    .action(async ({ json }: { readonly json?: true }) => {
      const { kvmApiVersion } = await import('../manager/doctor/kvm-api.ts');
      const kvm = await kvmApiVersion();
      const versions = {
        tsvm: packageVersion(),
        node: process.versions.node,
        kernel: release(),
        kvmApi: kvm ?? null,
      };
      process.stdout.write(
        json === true
          ? `${JSON.stringify(versions, null, 2)}\n`
          : `tsvm ${versions.tsvm}\n` +
              `Node.js ${versions.node}\n` +
              `Linux ${versions.kernel}\n` +
              `KVM API ${kvm ?? 'not available (tsvm doctor tells why)'}\n`,
      );
      done(EXIT.ok);
    });
}
