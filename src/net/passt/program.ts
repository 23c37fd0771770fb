/** The passt of this host: where it is, and what it can do. */
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import { delimiter, join } from 'node:path';
import { NetworkError } from '../network-error.ts';

/** What one passt knows, by its help text: versions are dates, and distributions patch. */
export type PasstProgram = {
  readonly path: string;
  /** logs to standard error if asked; newer ones do so in the foreground anyway */
  readonly stderrOption: boolean;
  /** `--no-map-gw`: the gateway's address is not the host's loopback */
  readonly noMapGateway: boolean;
  /** `--map-host-loopback`, which newer ones have besides */
  readonly mapHostLoopback: boolean;
  /** `--dns-host`: an address offered to the guest can be led to a resolver on the host's loopback */
  readonly dnsHost: boolean;
};

const HELP_LIMIT_MS = 10_000;
/** No help text is as long as this. */
const HELP_SIZE = 1024 * 1024;

const INSTALL =
  'install the package passt (Debian 12, Ubuntu 23.04, Fedora and newer: apt/dnf install passt)';

/** @throws NetworkError that names the package where there is none, or what is wrong with it */
export async function findPasst(path = process.env['PATH'] ?? ''): Promise<PasstProgram> {
  const program = path
    .split(delimiter)
    .filter((folder) => folder.startsWith('/'))
    .map((folder) => join(folder, 'passt'))
    .find(isExecutable);
  if (program === undefined) {
    throw new NetworkError('ENOENT', 'user-mode networking needs passt, which is not on this host', INSTALL);
  }
  return { path: program, ...featuresOf(await helpText(program)) };
}

/** @param help what `passt --help` says */
export function featuresOf(help: string): Omit<PasstProgram, 'path'> {
  const has = (option: string): boolean => new RegExp(`^\\s*(?:-., )?--${option}\\b(?!-)`, 'm').test(help);
  if (!has('fd')) {
    throw new NetworkError('ENOTSUP', 'the passt of this host is too old: it has no option --fd', INSTALL);
  }
  return {
    stderrOption: has('stderr'),
    noMapGateway: has('no-map-gw'),
    mapHostLoopback: has('map-host-loopback'),
    dnsHost: has('dns-host'),
  };
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function helpText(program: string): Promise<string> {
  return new Promise((resolve, reject) => {
    const options = { timeout: HELP_LIMIT_MS, maxBuffer: HELP_SIZE, env: { LC_ALL: 'C' } };
    execFile(program, ['--help'], options, (error, stdout, stderr) => {
      // Old ones write it to standard error, and end with a status that says failure.
      const text = `${stdout}\n${stderr}`;
      if (/--fd\b|--socket\b/.test(text)) resolve(text);
      else
        reject(new NetworkError('ENOEXEC', `${program} does not work: ${error?.message ?? 'no help text'}`));
    });
  });
}
