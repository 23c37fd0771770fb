import type { Place } from './volumes.ts';

/** What a boot loader would load. */
export type BootEntry = {
  readonly title: string;
  /** what says so, for people: `GRUB, /boot/grub/grub.cfg on partition 1` */
  readonly source: string;
  readonly kernel: Place;
  /** in the order in which they are to be loaded, one behind the other */
  readonly initrds: readonly Place[];
  readonly commandLine: string;
};

/** Words of a command line in one line. */
export const joinWords = (words: readonly string[]): string => words.filter((word) => word !== '').join(' ');
