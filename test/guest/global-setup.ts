import { buildDebian } from '../../images/debian/system.ts';

/** Builds Debian's image where it is not in the cache, before any test's time runs. */
export async function setup(): Promise<void> {
  await buildDebian();
}
