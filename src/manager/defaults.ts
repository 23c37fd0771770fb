/**
 * The user's defaults for new VMs: `[defaults]` of config.ini, which has mirrors and images too (see
 * images/catalogue.ts).
 */
import { readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { dirname, join, resolve } from 'node:path';
import { systemCode } from '../kvm/system-code.ts';
import * as v from 'valibot';
import { parseIni, type IniSection } from './ini.ts';
import { parseNet } from './options/net-options.ts';
import { vmSettings } from './vms/settings.ts';
import { field, list, read, type Field } from './vms/vm-ini.ts';

export type UserDefaults = {
  /** bytes */
  readonly memory?: number;
  readonly cpus?: number;
  /** of the first disk, in bytes */
  readonly disk?: number;
  /** who logs in */
  readonly user?: string;
  /** cards, as `--net` has them */
  readonly networks?: readonly string[];
  /** files with public keys, absolute */
  readonly sshKeys?: readonly string[];
};

const FIELDS: readonly Field[] = [
  field('memory', 'size', 'RAM'),
  field('cpus', 'whole', 'virtual CPUs'),
  field('disk', 'size', 'size of the first disk'),
  field('user', 'text', 'who logs in'),
];
const CARD = { prefix: 'card.', about: 'network cards' };
const SSH_KEY = { prefix: 'ssh-key.', about: 'files with public keys' };
const OTHERS = /^(mirror|image "[^"]*")$/;

const { memory, cpus, user } = vmSettings.entries.vm.entries;
/** What these may be is what they may be in a vm.ini. */
const schema = v.object({
  memory: v.optional(memory.wrapped),
  cpus: v.optional(cpus.wrapped),
  disk: v.optional(v.pipe(v.number(), v.minValue(2 ** 20, 'must be at least 1M'), v.multipleOf(512))),
  user,
});

/** @param path config.ini; one that is not there says nothing @throws IniError naming file, line and what is wrong */
export function loadDefaults(path: string): UserDefaults {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (error) {
    if (systemCode(error) === 'ENOENT') return {};
    throw error;
  }
  const sections = parseIni(text, path);
  for (const section of sections) refuseUnknown(section);
  const section = sections.find(({ name }) => name === 'defaults');
  const result = v.safeParse(schema, read(section, FIELDS, [CARD, SSH_KEY]));
  if (!result.success) {
    const [issue] = result.issues;
    const key = String(issue.path?.[0]?.key);
    throw section!.error(`'${key}': ${issue.message}`, key);
  }
  const networks = list(section, CARD, parseNet);
  const sshKeys = list(section, SSH_KEY, () => undefined);
  const { memory: bytes, cpus: count, disk, user: login } = result.output;
  return {
    ...(bytes !== undefined && { memory: bytes }),
    ...(count !== undefined && { cpus: count }),
    ...(disk !== undefined && { disk }),
    ...(login !== undefined && { user: login }),
    ...(networks.length > 0 && { networks }),
    ...(sshKeys.length > 0 && { sshKeys: sshKeys.map((file) => fileOf(file, dirname(path))) }),
  };
}

function refuseUnknown(section: IniSection): void {
  if (section.name === 'defaults' || OTHERS.test(section.name)) return;
  if (section.name !== '')
    throw section.error('there is no such section; there are defaults, mirror and image "NAME"');
  const [first] = section.values.keys();
  if (first !== undefined) throw section.error(`'${first}' is in no section`, first);
}

/** A path as people write it: from their home directory, or from the folder of the file. */
function fileOf(path: string, folder: string): string {
  return path.startsWith('~/') ? join(homedir(), path.slice(2)) : resolve(folder, path);
}
