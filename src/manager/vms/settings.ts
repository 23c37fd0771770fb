/** What a VM is made of, as its `vm.ini` has it. */
import * as v from 'valibot';
import { MAX_VCPUS } from '../../boot/layout.ts';

const MIB = 2 ** 20;

const text = v.pipe(
  v.string(),
  v.minLength(1, 'must not be empty'),
  // A half of a surrogate pair is no text, and would be read as something else.
  v.regex(/^[^\0\r\n\p{Cs}]*$/u, 'must be one line'),
);
const bytes = v.pipe(v.number(), v.safeInteger());

export const diskSettings = v.strictObject({
  /** path, from the VM's folder on */
  file: text,
  format: v.optional(v.picklist(['raw', 'qcow2']), 'qcow2'),
  /** files below the image may lie in other folders: those of images that tsvm keeps */
  trustBacking: v.optional(v.boolean(), false),
  readOnly: v.optional(v.boolean(), false),
  cache: v.optional(v.picklist(['writeback', 'none', 'unsafe']), 'writeback'),
  serial: v.optional(v.pipe(text, v.maxLength(20, 'has at most 20 characters'))),
});
export type DiskSettings = v.InferOutput<typeof diskSettings>;

export const vmSettings = v.strictObject({
  vm: v.strictObject({
    /** what it was made from, for people */
    image: v.optional(text),
    /** who logs in */
    user: v.optional(v.pipe(text, v.regex(/^[a-z_][a-z0-9_-]{0,31}$/, 'is no user name'))),
    /** private key of `tsvm ssh`, from the VM's folder on; none: ssh's own choice */
    sshKey: v.optional(text),
    /** what MAC addresses are made of that no card has of its own; none: the VM's name */
    identity: v.optional(text),
    memory: v.optional(v.pipe(bytes, v.minValue(32 * MIB, 'must be at least 32M')), 512 * MIB),
    cpus: v.optional(
      v.pipe(
        v.number(),
        v.integer('must be a whole number'),
        v.minValue(1, 'must be at least 1'),
        v.maxValue(MAX_VCPUS, `must be at most ${MAX_VCPUS}`),
      ),
      1,
    ),
    cpu: v.optional(text),
    console: v.optional(v.picklist(['serial', 'hvc0']), 'serial'),
    transport: v.optional(v.picklist(['pci', 'mmio']), 'pci'),
    balloon: v.optional(v.boolean(), true),
    /** off: its process keeps all rights of its user, for debugging */
    jail: v.optional(v.picklist(['on', 'off']), 'on'),
    /** CPUs' worth of time that its process may take */
    cpuLimit: v.optional(v.number()),
    /** memory that its process may take, the guest's RAM and all, in bytes */
    memoryLimit: v.optional(v.pipe(bytes, v.minValue(64 * MIB, 'must be at least 64M'))),
  }),
  boot: v.strictObject({
    /** none: what the boot loader on the first disk would boot */
    kernel: v.optional(text),
    initrd: v.optional(text),
    cmdline: v.optional(text),
  }),
  disks: v.array(diskSettings),
  network: v.strictObject({
    /** as `tsvm run --net` has them */
    cards: v.optional(v.array(text), []),
    /** as `tsvm run --publish` has them */
    publish: v.optional(v.array(text), []),
    hostAccess: v.optional(v.boolean(), false),
  }),
  /** as `tsvm run --share` has them */
  shares: v.array(text),
});
export type VmSettings = v.InferOutput<typeof vmSettings>;
export type VmSettingsInput = v.InferInput<typeof vmSettings>;
