/** The code of a system's error, such as ENOSPC, whoever has made the call; undefined of others. */
export function systemCode(error: unknown): string | undefined {
  return error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;
}
