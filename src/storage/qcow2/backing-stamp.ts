/**
 * What the backing file was when the overlay was made, in a header extension of our own that others keep as it is.
 * An overlay holds differences: to a backing file that was written to since, they mean nothing.
 */
import { statSync } from 'node:fs';
import { EXTENSION } from './format.ts';
import { viewOf, type Header, type HeaderExtension } from './header.ts';

type Stamp = { readonly size: bigint; readonly modified: bigint };

const LENGTH = 16;

export function stampOf(path: string): HeaderExtension {
  const { size, mtimeNs } = statSync(path, { bigint: true });
  const data = new Uint8Array(LENGTH);
  viewOf(data).setBigUint64(0, size);
  viewOf(data).setBigUint64(8, mtimeNs);
  return { type: EXTENSION.backingStamp, data };
}

function recorded(header: Header): Stamp | undefined {
  const data = header.extensions.find(({ type }) => type === EXTENSION.backingStamp)?.data;
  if (data?.length !== LENGTH) return undefined;
  return { size: viewOf(data).getBigUint64(0), modified: viewOf(data).getBigUint64(8) };
}

/** What is not as it was, in words; undefined where nothing is known to have changed. */
export function changeOf(header: Header, backingPath: string): string | undefined {
  const stamp = recorded(header);
  if (stamp === undefined) return undefined;
  const { size, mtimeNs } = statSync(backingPath, { bigint: true });
  if (size !== stamp.size) return `it has ${size} bytes now, and had ${stamp.size}`;
  if (mtimeNs === stamp.modified) return undefined;
  return `it was written to at ${new Date(Number(mtimeNs / 1_000_000n)).toISOString()}`;
}
