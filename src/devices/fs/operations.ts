import type { Operation } from './context.ts';
import { files } from './operations/files.ts';
import { folders } from './operations/folders.ts';
import { metadata } from './operations/metadata.ts';
import { names } from './operations/names.ts';
import { sessions } from './operations/session.ts';
import { OP } from './protocol.ts';

const release = files.release;

const BY_NAME: Readonly<Record<keyof typeof OP, Operation | undefined>> = {
  ...names,
  ...metadata,
  ...files,
  ...folders,
  ...sessions,
  releasedir: release,
  fsyncdir: files.fsync,
  // Nothing is left to be written when a file is closed: the kernel need not ask (ENOSYS) again.
  flush: undefined,
};

const OPERATIONS: (Operation | undefined)[] = [];
for (const [name, opcode] of Object.entries(OP)) OPERATIONS[opcode] = BY_NAME[name as keyof typeof OP];

/** What an opcode asks for; undefined for what is not there, which is answered with ENOSYS. */
export function operationOf(opcode: number): Operation | undefined {
  return OPERATIONS[opcode];
}
