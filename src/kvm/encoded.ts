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
      const text = dataset.value;
      const bytes = Buffer.from(text, 'base64');
      const padding = text.endsWith('==') ? 2 : text.endsWith('=') ? 1 : 0;
      // Node skips what is none, and there is less then.
      if (text.length % 4 === 0 && bytes.length === (text.length / 4) * 3 - padding) return bytes;
      addIssue({ message: 'not base64' });
      return NEVER;
    }),
  );
