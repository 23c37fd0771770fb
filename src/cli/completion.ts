import { Argument, type Command } from 'commander';
import { EXIT } from './exit-codes.ts';
import { addVerb, type Done } from './verb.ts';

const SHELLS = ['bash', 'zsh', 'fish'] as const;
type Shell = (typeof SHELLS)[number];

const EXAMPLES = [
  'tsvm completion bash > ~/.local/share/bash-completion/completions/tsvm',
  'tsvm completion zsh > ~/.zfunc/_tsvm',
  'tsvm completion fish > ~/.config/fish/completions/tsvm.fish',
];

/** Verbs whose argument is a VM's name: `tsvm list -q` tells them. */
const OF_VMS = [
  ...[
    'start',
    'stop',
    'restart',
    'kill',
    'delete',
    'rm',
    'rename',
    'info',
    'inspect',
    'logs',
    'console',
    'exec',
  ],
  ...['wait', 'send', 'set', 'events', 'shell', 'ssh', 'screenshot'],
  ...['pause', 'resume', 'suspend', 'restore', 'clone'],
  ...['create', 'ls', 'list', 'info', 'rm', 'delete', 'rename', 'export'].map((verb) => `snapshot ${verb}`),
];

type Verb = {
  readonly words: readonly string[];
  readonly options: readonly string[];
  readonly verbs: readonly string[];
};

/** `tsvm completion`: what a shell needs to complete command lines of tsvm. */
export function addCompletion(program: Command, done: Done): void {
  addVerb(program, 'completion', 'print a completion script for a shell', EXAMPLES)
    .addArgument(new Argument('<shell>').choices(SHELLS))
    .action((shell: Shell) => {
      process.stdout.write(scripts[shell](verbsOf(program)));
      done(EXIT.ok);
    });
}

function verbsOf(command: Command, words: readonly string[] = []): Verb[] {
  const shown = command.createHelp().visibleCommands(command);
  const options = command
    .createHelp()
    .visibleOptions(command)
    .flatMap(({ short, long }) => [short, long].filter((each) => each !== undefined));
  const names = shown.flatMap((each) => [each.name(), ...each.aliases()]).filter((name) => name !== 'help');
  return [
    { words, options, verbs: names },
    ...shown
      .filter((each) => each.name() !== 'help')
      .flatMap((each) => [each.name(), ...each.aliases()].flatMap((name) => verbsOf(each, [...words, name]))),
  ];
}

const scripts: Readonly<Record<Shell, (verbs: readonly Verb[]) => string>> = {
  bash: (verbs) => `# bash completion of tsvm
_tsvm() {
  local current="\${COMP_WORDS[COMP_CWORD]}" path="" word words
  for word in "\${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
    case "$path $word" in
${verbs
  .filter(({ words }) => words.length > 0)
  .map(({ words }) => `      ' ${words.join(' ')}') path=' ${words.join(' ')}' ;;`)
  .join('\n')}
    esac
  done
  case "$path" in
${verbs.map(({ words, options, verbs: below }) => `    '${words.map((word) => ` ${word}`).join('')}') words='${[...below, ...options].join(' ')}' ;;`).join('\n')}
  esac
  case "$path" in
    ${OF_VMS.map((verb) => `' ${verb}'`).join('|')}) words="$words $(tsvm list -q 2>/dev/null)" ;;
  esac
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  [ \${#COMPREPLY[@]} -gt 0 ] || compopt -o default
}
complete -F _tsvm tsvm
`,
  zsh: (verbs) => `#compdef tsvm
# The same words as in bash, by zsh's emulation of its completion.
autoload -U +X bashcompinit && bashcompinit
${scripts.bash(verbs)}`,
  fish: (verbs) =>
    [
      '# fish completion of tsvm',
      ...verbs.flatMap(({ words, options, verbs: below }) => {
        const [last] = words.slice(-1);
        const condition =
          last === undefined
            ? '__fish_use_subcommand'
            : words.map((word) => `__fish_seen_subcommand_from ${word}`).join('; and ');
        return [
          ...below.map((verb) => `complete -c tsvm -n '${condition}' -a ${verb}`),
          ...options.map((option) =>
            option.startsWith('--')
              ? `complete -c tsvm -n '${condition}' -l ${option.slice(2)}`
              : `complete -c tsvm -n '${condition}' -s ${option.slice(1)}`,
          ),
        ];
      }),
      `complete -c tsvm -n '__fish_seen_subcommand_from ${OF_VMS.join(' ')}' -a '(tsvm list -q 2>/dev/null)'`,
      '',
    ].join('\n'),
};
