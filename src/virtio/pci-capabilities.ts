import { BAR, BAR_LAYOUT, COMMON_SIZE, NOTIFY_MULTIPLIER } from './pci-layout.ts';
import type { PciCapability, PciSlot } from './pci-function.ts';

/** Vendor-specific, as all of virtio's (VIRTIO 1.2, 4.1.4). */
const VENDOR_SPECIFIC = 0x09;
const TYPE = { common: 1, notify: 2, isr: 3, device: 4, pciConfig: 5 } as const;

/** Offsets of struct virtio_pci_cap without its first two bytes, which are common to all capabilities. */
const AT = { length: 0, type: 1, bar: 2, offset: 6, size: 10, extra: 14 } as const;
const SIZE = 14;

function body(type: number, offset: number, size: number, extra?: number): Uint8Array {
  const bytes = new Uint8Array(SIZE + (extra === undefined ? 0 : 4));
  const view = new DataView(bytes.buffer);
  view.setUint8(AT.length, bytes.length + 2);
  view.setUint8(AT.type, type);
  view.setUint8(AT.bar, BAR);
  view.setUint32(AT.offset, offset, true);
  view.setUint32(AT.size, size, true);
  if (extra !== undefined) view.setUint32(AT.extra, extra, true);
  return bytes;
}

/** Where a virtio function's structures are. */
export function virtioCapabilities(
  options: { readonly queues: number; readonly configSize: number } & Pick<PciSlot, 'readBar' | 'writeBar'>,
): PciCapability[] {
  const { queues, configSize } = options;
  const notifySize = NOTIFY_MULTIPLIER * Math.max(queues, 1);
  const bodies = [
    body(TYPE.common, BAR_LAYOUT.common, COMMON_SIZE),
    body(TYPE.notify, BAR_LAYOUT.notify, notifySize, NOTIFY_MULTIPLIER),
    body(TYPE.isr, BAR_LAYOUT.isr, 1),
    // Only devices that have fields show where they are (4.1.4.6).
    ...(configSize > 0 ? [body(TYPE.device, BAR_LAYOUT.config, configSize)] : []),
  ];
  return [...bodies.map((bytes) => ({ id: VENDOR_SPECIFIC, body: bytes })), configAccess(options)];
}

/**
 * Access to the BAR through configuration space (4.1.4.9): the driver names a bar, an offset and a length of 1, 2
 * or 4, and an access to pci_cfg_data is one to that place.
 */
function configAccess({ readBar, writeBar }: Pick<PciSlot, 'readBar' | 'writeBar'>): PciCapability {
  const target = (view: DataView): [bar: number, offset: number, size: 1 | 2 | 4] | undefined => {
    const offset = view.getUint32(AT.offset, true);
    const size = view.getUint32(AT.size, true);
    if ((size !== 1 && size !== 2 && size !== 4) || offset % size !== 0) return undefined;
    return [view.getUint8(AT.bar), offset, size];
  };
  return {
    id: VENDOR_SPECIFIC,
    body: body(TYPE.pciConfig, 0, 0, 0),
    writable: [
      [AT.bar, AT.bar + 1],
      [AT.offset, AT.extra + 4],
    ],
    window: {
      offset: AT.extra,
      read: (view) => {
        const place = target(view);
        return place === undefined ? 0 : readBar(...place);
      },
      write: (view) => {
        const place = target(view);
        if (place === undefined) return;
        const value = view.getUint32(AT.extra, true);
        writeBar(...place, place[2] === 4 ? value : value % 2 ** (8 * place[2]));
      },
    },
  };
}
