import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { homedir, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { loadDefaults } from '../../../src/manager/defaults.ts';

let folder: string;
let path: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'tsvm-config-'));
  path = join(folder, 'config.ini');
});
afterEach(() => rmSync(folder, { recursive: true }));

const load = (text: string) => {
  writeFileSync(path, text);
  return loadDefaults(path);
};

describe('the defaults of config.ini', () => {
  it('are none without a file, or without a section', () => {
    expect(loadDefaults(path)).toEqual({});
    expect(load('[mirror]\nhttps://a.example/ = https://b.example/\n[image "own:1"]\ndisk = x\n')).toEqual(
      {},
    );
  });

  it('are all there is to a new VM', () => {
    const text = [
      ...['[defaults]', 'memory = 1.5G', 'cpus = 2', 'disk = 20G', 'user = max', 'card.1 = vmnet=lan,name=x'],
      ...['card.0 = user', 'ssh-key.0 = ~/.ssh/id.pub', 'ssh-key.1 = keys/other.pub', ''],
    ];
    expect(load(text.join('\n'))).toEqual({
      memory: 1.5 * 2 ** 30,
      cpus: 2,
      disk: 20 * 2 ** 30,
      user: 'max',
      networks: ['user', 'vmnet=lan,name=x'],
      sshKeys: [join(homedir(), '.ssh/id.pub'), join(folder, 'keys/other.pub')],
    });
  });

  it.each([
    ['a key that is none', 'cpu = 2', 2, "there is no 'cpu'"],
    ['a number that is none', 'cpus = many', 2, "'cpus' is no whole number"],
    ['too many CPUs', 'cpus = 33', 2, "'cpus': must be at most 32"],
    ['too little memory', '; a comment\nmemory = 1M', 3, "'memory': must be at least 32M"],
    ['a disk too small', 'disk = 512K', 2, "'disk': must be at least 1M"],
    ['a user that cannot be', 'user = Max', 2, "'user': is no user name"],
    ['a card that is none', 'cpus = 1\ncard.0 = wifi', 3, "'card.0': 'wifi' is no kind of network"],
    ['a section that is none', 'cpus = 1\n[default]\ncpus = 2', 3, 'there is no such section'],
  ])('refuse %s, by its line', (_, text, line, why) => {
    expect(() => load(`[defaults]\n${text}\n`)).toThrow(`config.ini:${line}: ${why}`);
  });

  it('refuse a key without a section', () => {
    expect(() => load('memory = 1G\n')).toThrow("config.ini:1: 'memory' is in no section");
  });
});
