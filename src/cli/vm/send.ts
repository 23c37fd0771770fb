import type { Command } from 'commander';
import { EXIT } from '../exit-codes.ts';
import { UsageError } from '../errors.ts';
import { addVerb, type Done, collect } from '../verb.ts';
import { NAME_HELP, openStore } from './vms.ts';

const EXAMPLES = [
  'tsvm send --enter web root',
  'tsvm send --key ctrl-c web',
  'tsvm send --key up --key enter web',
];

/** What keys send, as a terminal of the kind `vt220` does. */
const KEYS: ReadonlyMap<string, string> = new Map([
  ...Object.entries({
    ...{ enter: '\r', tab: '\t', escape: '\x1b', space: ' ', backspace: '\x7f', delete: '\x1b[3~' },
    ...{ up: '\x1b[A', down: '\x1b[B', right: '\x1b[C', left: '\x1b[D', home: '\x1b[H', end: '\x1b[F' },
    ...{ 'page-up': '\x1b[5~', 'page-down': '\x1b[6~', insert: '\x1b[2~' },
    ...{ f1: '\x1bOP', f2: '\x1bOQ', f3: '\x1bOR', f4: '\x1bOS', f5: '\x1b[15~', f6: '\x1b[17~' },
    ...{ f7: '\x1b[18~', f8: '\x1b[19~', f9: '\x1b[20~', f10: '\x1b[21~', f11: '\x1b[23~', f12: '\x1b[24~' },
  }),
  ...Array.from({ length: 26 }, (_, i): [string, string] => [
    `ctrl-${String.fromCharCode(0x61 + i)}`,
    String.fromCharCode(i + 1),
  ]),
]);

type SendFlags = { readonly key?: readonly string[]; readonly enter?: true };

/** `tsvm send`: types at a VM's console. */
export function addSend(program: Command, done: Done): void {
  addVerb(program, 'send', "type at a VM's console", EXAMPLES)
    .argument('<name>', NAME_HELP)
    .argument('[text]', 'what to type')
    .option(
      '-k, --key <name>',
      'a key, after the text: enter, tab, up, f1, ctrl-c, …; may be given again',
      collect,
    )
    .option('-e, --enter', 'Enter at the end')
    .action(async (name: string, text: string | undefined, { key = [], enter }: SendFlags) => {
      const keys = key.map((each) => {
        const bytes = KEYS.get(each.toLowerCase());
        if (bytes === undefined)
          throw new UsageError(`there is no key '${each}'`, `there are ${[...KEYS.keys()].join(', ')}`);
        return bytes;
      });
      const typed = [text ?? '', ...keys, enter ? '\r' : ''].join('');
      if (typed === '') throw new UsageError('there is nothing to type', "see 'tsvm send --help'");
      const { VmConnection } = await import('../../manager/vms/lifecycle.ts');
      using connection = new VmConnection(openStore(), name);
      await connection.control.send(typed);
      done(EXIT.ok);
    });
}
