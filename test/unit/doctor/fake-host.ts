import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';

import { onTestFinished } from 'vitest';

import type { Host, User } from '../../../src/manager/doctor/host.ts';

export const ALICE: User = { name: 'alice', uid: 1000, groups: [1000] };
export const ROOT: User = { name: 'root', uid: 0, groups: [0] };

/** A machine of files in a folder of its own, removed after the test. */
export function fakeHost(files: Readonly<Record<string, string>> = {}, user: User = ALICE): Host {
  const root = mkdtempSync(join(tmpdir(), 'tsvm-host-'));
  onTestFinished(() => rmSync(root, { recursive: true, force: true }));
  for (const [path, content] of Object.entries(files)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), content, { mode: content.startsWith('#!') ? 0o755 : 0o644 });
  }
  return { root, path: join(root, 'bin'), user };
}
