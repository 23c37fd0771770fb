import { execa } from 'execa';
import { appendFileSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { EventJournal, readEvents, type EventFilter } from '../../../src/manager/events.ts';
import { bundleScript } from '../../support/bundle-script.ts';

let root: string;
beforeEach(() => (root = mkdtempSync(join(tmpdir(), 'tsvm-events-'))));
afterEach(() => rmSync(root, { recursive: true, force: true }));

async function all(filter?: EventFilter): Promise<string[]> {
  const lines: string[] = [];
  for await (const { name, event, detail } of readEvents(root, filter))
    lines.push([name, event, detail].filter((each) => each !== undefined).join(' '));
  return lines;
}

test('where nothing has happened there is nothing', async () => {
  expect(await all()).toEqual([]);
});

test('events are read in their order, of one VM or of all, from a time on', async () => {
  const journal = new EventJournal(root);
  journal.add('web', 'created', 'debian');
  journal.add('db', 'started');
  journal.add('web', 'renamed', 'www');
  expect(await all()).toEqual(['web created debian', 'db started', 'web renamed www']);
  expect(await all({ name: 'web' })).toEqual(['web created debian', 'web renamed www']);
  expect(await all({ since: Date.now() + 60_000 })).toEqual([]);
});

test('lines that make no sense are left out', async () => {
  const journal = new EventJournal(root);
  journal.add('web', 'created');
  appendFileSync(
    join(root, 'events.jsonl'),
    'nonsense\n{"time":1}\n\n{"time":1,"name":"x","event":"eaten"}\n',
  );
  journal.add('web', 'deleted');
  appendFileSync(join(root, 'events.jsonl'), '{"time":');
  expect(await all()).toEqual(['web created', 'web deleted']);
});

test('the journal has its bounds, also for a process that has it open', async () => {
  const other = new EventJournal(root, 4096);
  other.open();
  const journal = new EventJournal(root, 4096);
  for (let i = 0; i < 500; i++) journal.add('web', 'set', `change ${i}`);
  other.add('web', 'stopped');
  const sizes = ['events.jsonl', 'events.jsonl.1'].map((name) => statSync(join(root, name)).size);
  for (const size of sizes) expect(size).toBeLessThan(4096 + 1200);
  const events = await all();
  expect(events.slice(-2)).toEqual(['web set change 499', 'web stopped']);
  // Of what is kept none is missing.
  const numbers = events.slice(0, -1).map((each) => Number(each.split(' ')[3]));
  expect(numbers).toEqual(numbers.map((_, i) => numbers[0]! + i));
});

test('a follower hears what other processes tell, each line whole', async () => {
  const script = await bundleScript(`
    import { EventJournal } from './src/manager/events.ts';
    const journal = new EventJournal(process.argv[2]);
    for (let i = 0; i < 100; i++) journal.add(process.argv[3], 'set', 'x'.repeat(900));
  `);
  const heard = new Map<string, number>();
  const enough = new AbortController();
  const following = (async () => {
    for await (const { name } of readEvents(root, { follow: true, signal: enough.signal })) {
      heard.set(name, (heard.get(name) ?? 0) + 1);
      if ([...heard.values()].reduce((sum, count) => sum + count, 0) === 400) enough.abort();
    }
  })();
  await Promise.all(['a', 'b', 'c', 'd'].map((name) => execa(process.execPath, [script, root, name])));
  await following;
  expect(heard).toEqual(new Map(['a', 'b', 'c', 'd'].map((name) => [name, 100])));
  expect(readFileSync(join(root, 'events.jsonl'), 'utf8').split('\n')).toHaveLength(401);
});
