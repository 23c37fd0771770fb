import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { NetBackend } from '../../../src/net/backend.ts';
import { openVmnet, type VmnetOptions } from '../../../src/net/vmnet-network.ts';
import { vmnetPlace, type VmnetPlace } from '../../../src/net/vmnet/place.ts';
import { serveVmnet } from '../../../src/net/vmnet/serve.ts';
import { Station } from './station.ts';

export type Guest = { readonly station: Station; readonly backend: NetBackend; readonly lines: string[] };

/** A network whose switch runs in this process, with guests that are stations of ours. */
export class TestNetwork {
  readonly place: VmnetPlace;
  readonly lines: string[] = [];
  readonly #folder = mkdtempSync(join(tmpdir(), 'tsvm-vmnet-'));
  readonly #abort = new AbortController();
  readonly #guests: Guest[] = [];
  /** resolves when the switch has ended */
  readonly ended: Promise<boolean>;

  /** @param lingerMs how long the switch stays without guests */
  constructor(lingerMs = 60_000, name = 'lan') {
    this.place = vmnetPlace(name, this.#folder);
    const { signal } = this.#abort;
    this.ended = serveVmnet(this.place, { log: (line) => this.lines.push(line), signal, lingerMs });
  }

  get folder(): string {
    return this.#folder;
  }

  /** @param mac its last byte */
  async join(mac: number, options: Partial<VmnetOptions> = {}): Promise<Guest> {
    const address = `52:54:00:00:00:${mac.toString(16).padStart(2, '0')}`;
    const lines: string[] = [];
    const backend = await openVmnet({
      network: this.place.name,
      folder: this.#folder,
      mac: address,
      uplink: false,
      log: (line) => lines.push(line),
      // It runs already.
      command: ['true'],
      ...options,
    });
    const guest = { station: new Station(backend.ports[0]!, address, true), backend, lines };
    this.#guests.push(guest);
    return guest;
  }

  async close(): Promise<void> {
    for (const { backend } of this.#guests) await backend.close();
    this.#abort.abort();
    await this.ended;
    rmSync(this.#folder, { recursive: true, force: true });
  }
}
