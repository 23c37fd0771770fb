import { availableTargets, loadTarget } from './targets.ts';
import { given } from './device-harness.ts';
import { fuzz, readArtifact } from './engine.ts';
import { Random } from './random.ts';
import { Argument, Command, InvalidArgumentError } from 'commander';

const integer = (text: string): number => {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new InvalidArgumentError('not a number');
  return value;
};

const program = new Command('fuzz')
  .description('Feeds a part of tsvm inputs that are mostly good and a little wrong, until one breaks it.')
  .addArgument(new Argument('[target]').choices(availableTargets))
  .option('--iters <n>', 'cases to run', integer, 10_000)
  .option('--seed <n>', 'the first number of it all; default: of this moment', integer)
  .option('--artifacts <folder>', 'where failed cases are kept', '.cache/fuzz')
  .option('--repro <file>', 'run one failed case again')
  .parse();

const options = program.opts<{ iters: number; seed?: number; artifacts: string; repro?: string }>();

if (options.repro !== undefined) {
  const { target: name, seed } = readArtifact(options.repro);
  const target = await loadTarget(name);
  await target.run(new Random(seed));
  console.log(`${name}: seed ${seed} passes`);
} else {
  const name = program.args[0] ?? program.error('a target is missing');
  const target = await loadTarget(name);
  const seed = options.seed ?? Date.now() % 2 ** 32;
  const start = performance.now();
  console.log(`${name}: ${options.iters} cases from seed ${seed}`);
  const failure = await fuzz(target, {
    iterations: options.iters,
    seed,
    artifacts: options.artifacts,
    progress: (done) => {
      if (done % 100_000 === 0) console.log(`${name}: ${done}`);
    },
  });
  const seconds = ((performance.now() - start) / 1000).toFixed(1);
  const chains = given.chains === 0 ? '' : ` (${given.chains} chains of descriptors)`;
  if (failure === undefined)
    console.log(`${name}: no failure in ${options.iters} cases${chains}, ${seconds} s`);
  else {
    console.error(failure.error);
    console.error(`${name}: failed; run it again with --repro ${failure.artifact ?? ''}`);
    process.exitCode = 1;
  }
}
