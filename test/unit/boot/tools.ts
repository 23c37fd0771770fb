import { execaSync } from 'execa';
import type { TestContext } from 'vitest';

/** Runs a compressor on bytes; skips the test where it is not installed. */
export function compress(context: TestContext, tool: string, args: string[], bytes: Uint8Array): Uint8Array {
  const result = execaSync(tool, args, {
    input: bytes,
    encoding: 'buffer',
    stripFinalNewline: false,
    reject: false,
    maxBuffer: 2 ** 28,
  });
  if (result.code === 'ENOENT') return context.skip(`${tool} is not installed`);
  if (result.failed) throw new Error(`${tool}: ${new TextDecoder().decode(result.stderr)}`);
  return result.stdout;
}
