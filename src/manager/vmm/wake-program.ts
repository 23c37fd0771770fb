/**
 * What a guest that goes on from a snapshot needs of its kernel before anything of its runs on: random numbers of its
 * own, as others may go on from the same state of the same generator, and its clock. A kernel that has a driver of the
 * VM generation id sees the first by itself (boot/../vm-generation.ts); Debian 12's, for one, has none. Of what a shell
 * can do, nothing makes a kernel use a seed at once, and the agent's own way to set a clock starts a program that waits
 * for a second of the clock on the board. So it is a program that is built here: two ioctls of /dev/random (random(4)),
 * and adjtimex(2), by which it does not matter when the program comes to run.
 */

const LOAD_ADDRESS = 0x400000;
const ELF_HEADER = 64;
const PROGRAM_HEADER = 56;
const CODE = LOAD_ADDRESS + ELF_HEADER + PROGRAM_HEADER;

const RNDADDENTROPY = 0x40085203;
const RNDRESEEDCRNG = 0x5207;
const ADJ_SETOFFSET_NANO = 0x2100;
const SYS_OPEN = 2;
const SYS_IOCTL = 16;
const SYS_UNLINK = 87;
const SYS_ADJTIMEX = 159;
const SYS_EXIT_GROUP = 231;

const NS_PER_S = 1_000_000_000n;

/** struct timex of <linux/timex.h>: its size, and where it has a time's seconds and nanoseconds */
const TIMEX = { size: 208, sec: 72, nsec: 80 };

/** Of the program's exit code: the clock was not set; what is below is the errno of what failed with the seed. */
export const CLOCK_FAILED = 0x40;

const le32 = (value: number): number[] =>
  [value, value >>> 8, value >>> 16, value >>> 24].map((b) => b & 0xff);
const le64 = (value: bigint): number[] => [
  ...le32(Number(BigInt.asUintN(32, value))),
  ...le32(Number(BigInt.asUintN(32, value >> 32n))),
];

// Instructions of x86-64, in the notation of the processor's manuals.
const movEax = (value: number): number[] => [0xb8, ...le32(value)];
const movEcx = (value: number): number[] => [0xb9, ...le32(value)];
const movEdi = (value: number): number[] => [0xbf, ...le32(value)];
const movEsi = (value: number): number[] => [0xbe, ...le32(value)];
const movEdx = (value: number): number[] => [0xba, ...le32(value)];
const movEbx = (value: number): number[] => [0xbb, ...le32(value)];
const movRax = (value: bigint): number[] => [0x48, 0xb8, ...le64(value)];
const subRsp = (value: number): number[] => [0x48, 0x81, 0xec, ...le32(value)];
const MOV_RSP_EAX = [0x89, 0x04, 0x24];
const movRspRax = (at: number): number[] => [0x48, 0x89, 0x44, 0x24, at];
const movRdiRsp = (at: number): number[] => [0x48, 0x8b, 0x7c, 0x24, at];
const MOV_RDI_RSP = [0x48, 0x89, 0xe7];
const MOV_EDI_EAX = [0x89, 0xc7];
const OR_EDI_EBX = [0x09, 0xdf];
const XOR_EAX_EAX = [0x31, 0xc0];
const XOR_EBX_EBX = [0x31, 0xdb];
const REP_STOSB = [0xf3, 0xaa];
const NEG_EAX = [0xf7, 0xd8];
const TEST_EAX_EAX = [0x85, 0xc0];
const SYSCALL = [0x0f, 0x05];
const js = (distance: number): number[] => [0x78, distance];
const jns = (distance: number): number[] => [0x79, distance];
const jnz = (distance: number): number[] => [0x75, distance];

/** By the name that it was called by, which the kernel has put on the stack above the number of arguments. */
const unlinkSelf = [...movRdiRsp(8), ...movEax(SYS_UNLINK), ...SYSCALL];

/** Leaves in EBX what the exit code has of it. */
function moveClock(offset: bigint): number[] {
  const nsec = BigInt.asUintN(64, ((offset % NS_PER_S) + NS_PER_S) % NS_PER_S);
  const sec = (offset - nsec) / NS_PER_S;
  const failed = movEbx(CLOCK_FAILED);
  return [
    ...[...subRsp(TIMEX.size), ...MOV_RDI_RSP, ...XOR_EAX_EAX, ...movEcx(TIMEX.size), ...REP_STOSB],
    ...[...movEax(ADJ_SETOFFSET_NANO), ...MOV_RSP_EAX],
    ...[...movRax(sec), ...movRspRax(TIMEX.sec), ...movRax(nsec), ...movRspRax(TIMEX.nsec)],
    ...[...MOV_RDI_RSP, ...movEax(SYS_ADJTIMEX), ...SYSCALL],
    ...[...XOR_EBX_EBX, ...TEST_EAX_EAX, ...jns(failed.length), ...failed],
  ];
}

/**
 * A program for Linux on x86-64 that removes its own file, moves the clock, and gives the kernel's generator a seed that
 * is used from then on. Its exit code is 0, or what has failed: see {@link CLOCK_FAILED}.
 * @param seed bytes, a multiple of 4
 * @param offset by which the clock is to be moved, in nanoseconds; undefined: it is left as it is
 */
export function wakeProgram(seed: Uint8Array, offset?: bigint): Buffer {
  const path = Buffer.from('/dev/random\0');
  const exit = [...[...NEG_EAX, ...MOV_EDI_EAX, ...OR_EDI_EBX], ...[...movEax(SYS_EXIT_GROUP), ...SYSCALL]];
  const reseed = [...movEax(SYS_IOCTL), ...movEsi(RNDRESEEDCRNG), ...SYSCALL];
  const clock = offset === undefined ? XOR_EBX_EBX : moveClock(offset);
  const build = (pathAt: number, poolAt: number): number[] => {
    const add = [
      ...movEax(SYS_IOCTL),
      ...movEsi(RNDADDENTROPY),
      ...movEdx(poolAt),
      ...SYSCALL,
      ...TEST_EAX_EAX,
    ];
    const rest = [...MOV_EDI_EAX, ...add, ...jnz(reseed.length), ...reseed];
    // A writer, by O_WRONLY, which is 1.
    const open = [...movEax(SYS_OPEN), ...movEdi(pathAt), ...movEsi(1), ...SYSCALL, ...TEST_EAX_EAX];
    return [...unlinkSelf, ...clock, ...open, ...js(rest.length), ...rest, ...exit];
  };
  const { length } = build(0, 0);
  const code = Buffer.from(build(CODE + length, CODE + length + path.length));
  // struct rand_pool_info: bits of entropy, bytes that follow.
  const pool = Buffer.concat([Buffer.from(le32(8 * seed.length)), Buffer.from(le32(seed.length)), seed]);
  const body = Buffer.concat([code, path, pool]);
  return Buffer.concat([headers(body.length), body]);
}

/** "Executable and Linkable Format", gABI 4: a header, and one segment with all of the file. */
function headers(bodySize: number): Buffer {
  const header = Buffer.alloc(ELF_HEADER + PROGRAM_HEADER);
  const size = BigInt(header.length + bodySize);
  // 64 bits, little-endian, version 1.
  header.set([0x7f, 0x45, 0x4c, 0x46, 2, 1, 1]);
  header.writeUInt16LE(2, 16); // e_type: ET_EXEC
  header.writeUInt16LE(62, 18); // e_machine: EM_X86_64
  header.writeUInt32LE(1, 20); // e_version
  header.writeBigUInt64LE(BigInt(CODE), 24); // e_entry
  header.writeBigUInt64LE(BigInt(ELF_HEADER), 32); // e_phoff
  header.writeUInt16LE(ELF_HEADER, 52); // e_ehsize
  header.writeUInt16LE(PROGRAM_HEADER, 54); // e_phentsize
  header.writeUInt16LE(1, 56); // e_phnum
  const segment = header.subarray(ELF_HEADER);
  segment.writeUInt32LE(1, 0); // p_type: PT_LOAD
  segment.writeUInt32LE(5, 4); // p_flags: readable and executable
  segment.writeBigUInt64LE(BigInt(LOAD_ADDRESS), 16); // p_vaddr
  segment.writeBigUInt64LE(BigInt(LOAD_ADDRESS), 24); // p_paddr
  segment.writeBigUInt64LE(size, 32); // p_filesz
  segment.writeBigUInt64LE(size, 40); // p_memsz
  segment.writeBigUInt64LE(0x1000n, 48); // p_align
  return header;
}

/** For {@link WAKE_SCRIPT}, by its standard input: as printf(1) takes it, whose escapes a shell carries out by itself. */
export const wakeInput = (program: Uint8Array): string =>
  `${[...program].map((byte) => `\\${byte.toString(8).padStart(3, '0')}`).join('')}\n`;

/**
 * Lines of a shell's that run the program of its standard input, from the first of some folders that lets it, and leave
 * its exit code in `woken`. In memory first: what was a seed is not to stay on a disk. A guest that has just come to
 * itself has to fetch what each process needs from the snapshot: there are no more of them than have to be.
 */
export const WAKE_SCRIPT = `
umask 077
woken=125
IFS= read -r program
for folder in /dev/shm /run /tmp /; do
  file=$folder/.tsvm-wake-$$
  { printf "$program" > "$file"; } 2> /dev/null && chmod 700 "$file" || continue
  "$file" < /dev/null 2> /dev/null
  woken=$?
  [ ! -e "$file" ] || rm -f "$file"
  # 126: files there are not run.
  [ $woken = 126 ] || break
done
program=
`;
