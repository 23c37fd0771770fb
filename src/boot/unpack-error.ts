/** Packed data that does not unpack. The message says how, for a line that names the file. */
export class UnpackError extends Error {
  override readonly name = 'UnpackError';
}

/** The host cannot unpack this format; the data itself may be good. */
export class UnpackerMissing extends Error {
  override readonly name = 'UnpackerMissing';
}
