/**
 * Random numbers of a guest that goes on from a snapshot: others may go on from the same, with the same state of the
 * same generator. A kernel that has a driver of the VM generation id sees that by itself (boot/../vm-generation.ts);
 * Debian 12's, for one, has none. Of what a shell can do, nothing makes a kernel use what it is given at once: that is
 * a matter of two ioctls of /dev/random (random(4)), made by the program that is built here.
 */
import { randomBytes } from 'node:crypto';
import type { AgentClient } from '../agent/client.ts';

/** in bytes: what the kernel's generator is keyed with */
const SEED = 32;
const LOAD_ADDRESS = 0x400000;
const ELF_HEADER = 64;
const PROGRAM_HEADER = 56;
const CODE = LOAD_ADDRESS + ELF_HEADER + PROGRAM_HEADER;

const RNDADDENTROPY = 0x40085203;
const RNDRESEEDCRNG = 0x5207;
const SYS_OPEN = 2;
const SYS_IOCTL = 16;
const SYS_EXIT_GROUP = 231;

const le32 = (value: number): number[] =>
  [value, value >>> 8, value >>> 16, value >>> 24].map((b) => b & 0xff);

// Instructions of x86-64, in the notation of the processor's manuals.
const movEax = (value: number): number[] => [0xb8, ...le32(value)];
const movEdi = (value: number): number[] => [0xbf, ...le32(value)];
const movEsi = (value: number): number[] => [0xbe, ...le32(value)];
const movEdx = (value: number): number[] => [0xba, ...le32(value)];
const MOV_EDI_EAX = [0x89, 0xc7];
const NEG_EAX = [0xf7, 0xd8];
const TEST_EAX_EAX = [0x85, 0xc0];
const SYSCALL = [0x0f, 0x05];
const js = (distance: number): number[] => [0x78, distance];
const jnz = (distance: number): number[] => [0x75, distance];

/**
 * A program for Linux on x86-64 that gives the kernel's generator a seed and has it used from then on. Its exit code is
 * 0, or the errno of what failed.
 * @param seed bytes, a multiple of 4
 */
export function seedProgram(seed: Uint8Array): Buffer {
  const path = Buffer.from('/dev/random\0');
  const end = [...NEG_EAX, ...MOV_EDI_EAX, ...movEax(SYS_EXIT_GROUP), ...SYSCALL];
  const reseed = [...movEax(SYS_IOCTL), ...movEsi(RNDRESEEDCRNG), ...SYSCALL];
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
    return [...open, ...js(rest.length), ...rest, ...end];
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

/**
 * Runs the program that comes in by standard input, from the first of some folders that lets it. In memory first: what
 * was a seed is not to stay on a disk.
 */
export const SEED_SCRIPT = `
umask 077
program=
for folder in /dev/shm /run /tmp /; do
  file=$folder/.tsvm-seed-$$
  if [ -z "$program" ]; then
    # The input can be read but once.
    { cat > "$file"; } 2> /dev/null || continue
    program=$file
  else
    cp "$program" "$file" 2> /dev/null || continue
  fi
  chmod 700 "$file"
  "$file" 2> /dev/null
  status=$?
  [ "$file" = "$program" ] || rm -f "$file"
  # 126: files there are not run.
  [ $status = 126 ] || break
done
rm -f "$program"
exit \${status:-125}
`;

/**
 * Has the guest's kernel draw other random numbers than any other that was in the same state.
 * @returns what went wrong; undefined where nothing did
 * @throws AgentError where the agent does not answer, or runs no commands
 */
export async function seedGuest(
  agent: AgentClient,
  options: { readonly timeout: number; readonly signal: AbortSignal },
): Promise<string | undefined> {
  const input = seedProgram(randomBytes(SEED));
  const { exitCode, stderr } = await agent.exec('/bin/sh', ['-c', SEED_SCRIPT], { ...options, input });
  return exitCode === 0
    ? undefined
    : `status ${exitCode ?? 'unknown'} ${stderr.toString().trim().slice(0, 200)}`;
}
