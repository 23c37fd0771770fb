import { join } from 'node:path';
import { cacheRoot } from '../../images/debian/cache.ts';
import { LAB_SOCKET } from './host.ts';
import { isListening, keptSocket, LabServer } from './server.ts';

/**
 * One level 1 for a whole test run: the kept one where there is one, else one that starts when a test first asks for
 * it. Its socket goes to the test files' processes by the environment.
 */
export async function setup(): Promise<(() => Promise<void>) | undefined> {
  if (await isListening(keptSocket())) {
    process.env[LAB_SOCKET] = keptSocket();
    return undefined;
  }
  const path = join(cacheRoot(), 'lab', `test-${process.pid}.sock`);
  const server = await LabServer.listen(path, { debian: true });
  process.env[LAB_SOCKET] = path;
  return () => server.close();
}
