import * as v from 'valibot';

const BASE64 = /^(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?$/;

/** Bytes as saved state has them: base64. */
export const encodeBytes = (bytes: Uint8Array): string =>
  Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64');

/** What {@link encodeBytes} gave of at most `limit` bytes. */
export const encoded = (limit: number) =>
  v.pipe(
    v.string(),
    v.maxLength(Math.ceil(limit / 3) * 4, 'too long'),
    v.regex(BASE64, 'not base64'),
    v.transform((text): Uint8Array => Buffer.from(text, 'base64')),
  );
