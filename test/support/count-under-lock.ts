/** Counts in a file under a lock, with nothing else to keep others from it; or holds the lock until it is killed. */
import { readFileSync, writeFileSync } from 'node:fs';

import { withLock } from '../../src/manager/lock.ts';
import { managerPaths } from '../../src/manager/paths.ts';

const paths = managerPaths();
const [file = '', times = '0'] = process.argv.slice(2);
if (file === 'hold') {
  await withLock(paths, 'count', async () => {
    process.stdout.write('held\n');
    await new Promise((resolve) => process.stdin.on('end', resolve).resume());
  });
} else {
  for (let at = 0; at < Number(times); at++) {
    await withLock(paths, 'count', async () => {
      const count = Number(readFileSync(file, 'utf8'));
      await new Promise((resolve) => setImmediate(resolve));
      writeFileSync(file, String(count + 1));
    });
  }
}
