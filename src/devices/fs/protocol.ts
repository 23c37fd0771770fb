/** Numbers of virtio-fs (VIRTIO 1.2, 5.11) and of the FUSE protocol that it carries (linux/fuse.h), version 7.38. */

export const FS_DEVICE_ID = 26;
/** mass storage controller, other */
export const FS_PCI_CLASS = 0x01_8000;
/** bytes of the tag in the configuration space, UTF-8 */
export const TAG_SIZE = 36;

export const FUSE_MAJOR = 7;
export const FUSE_MINOR = 38;
/** The first kernel with virtio-fs, 5.4, has 31: nothing older is spoken. */
export const FUSE_LEAST_MINOR = 31;

export const OP = {
  lookup: 1,
  forget: 2,
  getattr: 3,
  setattr: 4,
  readlink: 5,
  symlink: 6,
  mknod: 8,
  mkdir: 9,
  unlink: 10,
  rmdir: 11,
  rename: 12,
  link: 13,
  open: 14,
  read: 15,
  write: 16,
  statfs: 17,
  release: 18,
  fsync: 20,
  setxattr: 21,
  getxattr: 22,
  listxattr: 23,
  removexattr: 24,
  flush: 25,
  init: 26,
  opendir: 27,
  readdir: 28,
  releasedir: 29,
  fsyncdir: 30,
  interrupt: 36,
  create: 35,
  destroy: 38,
  batchForget: 42,
  fallocate: 43,
  readdirplus: 44,
  rename2: 45,
  lseek: 46,
  copyFileRange: 47,
  syncfs: 50,
} as const;

/** Flags of INIT. */
export const INIT = {
  asyncRead: 1 << 0,
  atomicOTrunc: 1 << 3,
  bigWrites: 1 << 5,
  autoInvalData: 1 << 12,
  doReaddirplus: 1 << 13,
  readdirplusAuto: 1 << 14,
  asyncDio: 1 << 15,
  writebackCache: 1 << 16,
  parallelDirops: 1 << 18,
  maxPages: 1 << 22,
  cacheSymlinks: 1 << 23,
  handleKillprivV2: 1 << 28,
  initExt: 1 << 30,
} as const;

/** Flags of INIT in the second word. */
export const INIT2 = { directIoAllowMmap: 1 << 4 } as const;

/** Sizes in bytes of what requests and replies have behind their headers. */
export const IN_HEADER = 40;
export const OUT_HEADER = 16;
export const ENTRY_OUT = 128;
export const ATTR_OUT = 104;
export const OPEN_OUT = 16;
export const WRITE_IN = 40;
export const INIT_OUT = 64;
export const STATFS_OUT = 80;
/** of a directory entry, before the name */
export const DIRENT = 24;

export const FATTR = {
  mode: 1 << 0,
  uid: 1 << 1,
  gid: 1 << 2,
  size: 1 << 3,
  atime: 1 << 4,
  mtime: 1 << 5,
  fh: 1 << 6,
  atimeNow: 1 << 7,
  mtimeNow: 1 << 8,
  killSuidgid: 1 << 11,
} as const;

/** Answers to OPEN. */
export const FOPEN = { directIo: 1 << 0, keepCache: 1 << 1, cacheDir: 1 << 3 } as const;
/** Flags of OPEN and CREATE beside those of open(2). */
export const OPEN_KILL_SUIDGID = 1;
export const WRITE_FLAGS = { cache: 1 << 0, killSuidgid: 1 << 2 } as const;
export const FSYNC_DATA = 1;
export const GETATTR_FH = 1;

/** bytes of one READ or WRITE, and their pages */
export const MAX_TRANSFER = 1024 * 1024;
export const MAX_PAGES = MAX_TRANSFER / 4096;

export const ROOT_ID = 1;

/** File types in a mode (inode(7)). */
export const S_IFMT = 0o17_0000;
export const S_IFREG = 0o10_0000;
export const S_IFDIR = 0o04_0000;
export const S_IFLNK = 0o12_0000;

/** Flags of open(2) on x86, which the guest's are. */
export const O = {
  accessMode: 3,
  writeOnly: 1,
  readWrite: 2,
  create: 0o100,
  exclusive: 0o200,
  truncate: 0o1000,
  append: 0o2000,
  dataSync: 0o1_0000,
  directory: 0o20_0000,
  sync: 0o401_0000,
} as const;
