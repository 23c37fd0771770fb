import * as v from 'valibot';

/** Bytes as saved state has them: base64. */
export const encodeBytes = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');

/** What {@link encodeBytes} gave of at most `limit` bytes. */
export const encoded = (limit: number) =>
  v.pipe(
    v.string(),
    v.maxLength(Math.ceil(limit / 3) * 4, 'too long'),
    v.rawTransform(({ dataset, addIssue, NEVER }): Uint8Array => {
      const bytes = Buffer.from(dataset.value, 'base64');
      // Node skips what is none, and takes what others use instead of + and /.
      if (encodeBytes(bytes) === dataset.value) return bytes;
      addIssue({ message: 'not base64' });
      return NEVER;
    }),
  );
