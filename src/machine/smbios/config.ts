import type { MemoryRange } from '../../boot/layout.ts';

/** What the guest's DMI says of the machine. Strings are printable ASCII; an empty one is left out. */
export type SmbiosConfig = {
  /** identity of the VM, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` */
  readonly uuid: string;
  readonly vcpus: number;
  /** RAM as guest-physical ranges, multiples of 4 KiB */
  readonly memory: readonly MemoryRange[];
  /** serial number of the system; cloud-init reads `ds=nocloud;...` from it. Default none */
  readonly serial?: string;
  /** default `tsvm` */
  readonly manufacturer?: string;
  /** default `tsvm` */
  readonly product?: string;
  /** version of tsvm, as version of system and firmware. Default none */
  readonly version?: string;
  /** stock-keeping unit and family of the system. Default none */
  readonly sku?: string;
  readonly family?: string;
  /** asset tag of the chassis. Default none */
  readonly assetTag?: string;
  readonly processor?: {
    /** default `tsvm` */
    readonly manufacturer?: string;
    /** model name. Default none */
    readonly version?: string;
    /** nominal frequency in MHz, up to 65535; default 0, which is unknown */
    readonly mhz?: number;
  };
};
