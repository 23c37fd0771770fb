import type { BootEntry } from './entry.ts';
import { GrubLimitError, GrubRun, type MenuEntry } from './grub-run.ts';
import { GrubSyntaxError } from './grub-script.ts';
import { describePlace, isEsp, isFile, namesIn, type Place, type Volume } from './volumes.ts';

const OWN = ['/boot/grub/grub.cfg', '/boot/grub2/grub.cfg', '/grub/grub.cfg', '/grub2/grub.cfg'];
const MAX_ESP_FOLDERS = 30;
/** Entries that are tried where the chosen one boots no Linux. */
const MAX_TRIES = 50;

/**
 * What GRUB would boot, by the first of its configurations that boots a Linux.
 * @param notes gets what is wrong with the others
 */
export async function grubBoot(volumes: readonly Volume[], notes: string[]): Promise<BootEntry | undefined> {
  for (const config of await configurations(volumes)) {
    try {
      const run = new GrubRun(volumes, config);
      await run.runConfig();
      const entry = await chosen(run);
      if (entry !== undefined) return entry;
    } catch (error) {
      if (!(error instanceof GrubSyntaxError || error instanceof GrubLimitError)) throw error;
      notes.push(`${describePlace(config)} is left out: ${error.message}`);
    }
  }
  return undefined;
}

/** Those that firmware comes to first: they say where the others are. */
async function configurations(volumes: readonly Volume[]): Promise<Place[]> {
  const found: Place[] = [];
  for (const volume of volumes.filter(isEsp)) {
    for (const name of (await namesIn({ volume, path: '/EFI' })).slice(0, MAX_ESP_FOLDERS))
      found.push({ volume, path: `/EFI/${name}/grub.cfg` });
  }
  // A /boot of its own hides the one on the root file system.
  for (const path of [...OWN.slice(2), ...OWN.slice(0, 2)])
    for (const volume of volumes) found.push({ volume, path });
  const existing: Place[] = [];
  for (const place of found) if (await isFile(place)) existing.push(place);
  return existing;
}

async function chosen(run: GrubRun): Promise<BootEntry | undefined> {
  let menu = run.menu;
  const path = (run.env.get('default') ?? '0').split('>');
  for (;;) {
    const wanted = path.shift() ?? '0';
    const choice = find(menu, wanted) ?? menu[0];
    if (choice === undefined) return undefined;
    if (choice.kind === 'submenu') {
      const inner = await run.open(choice);
      if (inner.length > 0) {
        menu = inner;
        continue;
      }
    }
    const entry = await run.boot(choice);
    if (entry !== undefined) return entry;
    break;
  }
  for (const other of menu.slice(0, MAX_TRIES)) {
    const entry = other.kind === 'submenu' ? undefined : await run.boot(other);
    if (entry !== undefined) return entry;
  }
  return undefined;
}

/** By number, id or title. */
function find(menu: readonly MenuEntry[], wanted: string): MenuEntry | undefined {
  if (/^\d+$/.test(wanted)) return menu[Number(wanted)];
  return menu.find(({ id, title }) => id === wanted || title === wanted);
}
