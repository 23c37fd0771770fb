import * as v from 'valibot';

/** Saved state of a device that cannot be restored: names the device, the field and what is wrong with it. */
export class DeviceStateError extends Error {
  override readonly name = 'DeviceStateError';
}

/** An integer from 0 to `max`. */
export const unsigned = (max: number) =>
  v.pipe(v.number(), v.integer('not an integer'), v.minValue(0), v.maxValue(max));

export const byte = unsigned(0xff);

/** of a text out of a file, in a message */
const LONGEST = 200;

/** A text that came out of a file, so that it can be told to a person: in one line, of no more than 200 characters. */
export function forPerson(text: string): string {
  const line = text.slice(0, LONGEST + 1).replaceAll(/[\p{Cc}\p{Cf}\p{Zl}\p{Zp}\p{Cs}]/gu, '?');
  return line.length > LONGEST ? `${line.slice(0, LONGEST)}…` : line;
}

/** @throws DeviceStateError where `data` does not have the form of `schema` */
export function checkState<Schema extends v.GenericSchema>(
  device: string,
  schema: Schema,
  data: unknown,
): v.InferOutput<Schema> {
  const result = v.safeParse(schema, data, { abortEarly: true });
  if (result.success) return result.output;
  const [issue] = result.issues;
  const field = v.getDotPath(issue);
  const where = field === null ? '' : `, ${forPerson(field)}`;
  throw new DeviceStateError(`state of ${device}${where}: ${forPerson(issue.message)}`);
}
