import { chmodSync, existsSync, statSync, writeFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { managerPaths, privateFolder, socketPath } from '../../../src/manager/paths.ts';
import { temporaryFolder } from '../../support/storage/qemu-img.ts';

let folder: ReturnType<typeof temporaryFolder>;
beforeEach(() => {
  folder = temporaryFolder();
});
afterEach(() => folder.remove());

describe('the data directory', () => {
  it('is TSVM_HOME, with the settings and the sockets in it', () => {
    expect(managerPaths({ TSVM_HOME: '/x', XDG_DATA_HOME: '/d', XDG_RUNTIME_DIR: '/r' })).toEqual({
      root: '/x',
      vms: '/x/vms',
      images: '/x/images',
      warm: '/x/warm',
      locks: '/x/locks',
      config: '/x/config.ini',
      run: '/x/run',
    });
  });

  it('follows the XDG Base Directory Specification', () => {
    const env = { XDG_DATA_HOME: '/d', XDG_CONFIG_HOME: '/c', XDG_RUNTIME_DIR: '/r' };
    expect(managerPaths(env)).toMatchObject({
      root: '/d/tsvm',
      config: '/c/tsvm/config.ini',
      run: '/r/tsvm',
    });
  });

  it('is in the home directory where the environment says nothing, or a relative path', () => {
    const root = join(homedir(), '.local/share/tsvm');
    const config = join(homedir(), '.config/tsvm/config.ini');
    expect(managerPaths({})).toMatchObject({ root, config, run: join(root, 'run') });
    expect(managerPaths({ XDG_DATA_HOME: 'd', XDG_CONFIG_HOME: 'c' })).toMatchObject({ root, config });
  });

  it('is not a relative path', () => {
    expect(() => managerPaths({ TSVM_HOME: 'x' })).toThrow(/not an absolute path/);
  });
});

describe('folders', () => {
  it('are for their owner only, with those above them', () => {
    const path = privateFolder(join(folder.path, 'a/b'));
    expect(statSync(path).mode & 0o777).toBe(0o700);
    expect(statSync(join(folder.path, 'a')).mode & 0o777).toBe(0o700);
  });

  it('lose what others may', () => {
    chmodSync(folder.path, 0o755);
    privateFolder(folder.path);
    expect(statSync(folder.path).mode & 0o777).toBe(0o700);
  });

  it('cannot be in a file', () => {
    writeFileSync(folder.file('f'), '');
    expect(() => privateFolder(folder.file('f/x'))).toThrow(/no folder/);
    expect(existsSync(folder.file('f/x'))).toBe(false);
  });
});

describe('sockets', () => {
  it('have paths of 107 bytes at most, in UTF-8', () => {
    expect(socketPath(`/${'a'.repeat(99)}`, 'x.sock')).toHaveLength(107);
    expect(() => socketPath(`/${'a'.repeat(100)}`, 'x.sock')).toThrow(/up to 107 bytes, and this has 108/);
    expect(() => socketPath(`/${'ä'.repeat(50)}`, 'x.sock')).toThrow(/this has 108/);
  });
});
