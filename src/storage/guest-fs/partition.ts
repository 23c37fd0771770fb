export type Partition = {
  /** from 1 on, as Linux numbers it: N of /dev/vdaN. 0 is the whole disk */
  readonly number: number;
  /** in bytes, like `size`; within the disk, but partitions may overlap */
  readonly offset: number;
  readonly size: number;
  /** GPT: a GUID in small letters; MBR: a number like 0x83; '' for the whole disk */
  readonly type: string;
  /** what Linux calls PARTUUID; '' for the whole disk */
  readonly uuid: string;
  /** what Linux calls PARTLABEL; only GPTs have names */
  readonly name: string;
};

export type PartitionTable = {
  /** `none`: the disk is one file system */
  readonly kind: 'gpt' | 'mbr' | 'none';
  readonly sectorSize: number;
  readonly partitions: readonly Partition[];
  /** what is wrong and could be done without, each one line */
  readonly notes: readonly string[];
};
