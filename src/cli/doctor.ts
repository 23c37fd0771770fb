import type { Command } from 'commander';

import { EXIT } from './exit-codes.ts';
import { addVerb, type Done } from './verb.ts';

const EXAMPLES = ['tsvm doctor', 'tsvm doctor --json | jq .usable'];

/** `tsvm doctor`: what this machine lacks, and how to give it that. */
export function addDoctor(program: Command, done: Done): void {
  addVerb(program, 'doctor', 'check whether this machine can run guests, and tell what to do', EXAMPLES)
    .option('--json', 'print a JSON object')
    .action(async ({ json }: { readonly json?: true }) => {
      const [{ runDoctor }, { formatReport }] = await Promise.all([
        import('../manager/doctor/doctor.ts'),
        import('./doctor-report.ts'),
      ]);
      const report = await runDoctor();
      const { stdout } = process;
      const table = stdout.isTTY;
      const colours = table && stdout.hasColors() && (process.env['NO_COLOR'] ?? '') === '';
      stdout.write(
        json === true ? `${JSON.stringify(report, null, 2)}\n` : formatReport(report, { table, colours }),
      );
      done(report.usable ? EXIT.ok : EXIT.failed);
    });
}
