/** What the agent's answers look like (QEMU's `qga/qapi-schema.json`); members that are not used here are let pass. */
import * as v from 'valibot';

const count = v.pipe(v.number(), v.integer(), v.minValue(0));
const integer = v.pipe(v.number(), v.integer());

/** The frame of every answer. */
export const reply = v.union([
  v.object({ error: v.object({ class: v.string(), desc: v.string() }) }),
  v.object({ return: v.unknown() }),
]);

export const nothing = v.unknown();
export const number = integer;

export const info = v.object({
  version: v.string(),
  supported_commands: v.array(
    v.object({ name: v.string(), enabled: v.boolean(), 'success-response': v.boolean() }),
  ),
});

export const osInfo = v.object({
  id: v.optional(v.string()),
  name: v.optional(v.string()),
  'pretty-name': v.optional(v.string()),
  version: v.optional(v.string()),
  'version-id': v.optional(v.string()),
  variant: v.optional(v.string()),
  'variant-id': v.optional(v.string()),
  machine: v.optional(v.string()),
  'kernel-release': v.optional(v.string()),
  'kernel-version': v.optional(v.string()),
});

export const networkInterfaces = v.array(
  v.object({
    name: v.string(),
    'hardware-address': v.optional(v.string()),
    'ip-addresses': v.optional(
      v.array(
        v.object({
          'ip-address': v.string(),
          'ip-address-type': v.picklist(['ipv4', 'ipv6']),
          prefix: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(128)),
        }),
      ),
    ),
  }),
);

export const execStarted = v.object({ pid: integer });

export const execStatus = v.object({
  exited: v.boolean(),
  exitcode: v.optional(integer),
  signal: v.optional(integer),
  'out-data': v.optional(v.string()),
  'err-data': v.optional(v.string()),
  'out-truncated': v.optional(v.boolean()),
  'err-truncated': v.optional(v.boolean()),
});

export const freezeStatus = v.picklist(['thawed', 'frozen']);

export const fileRead = v.object({ count, 'buf-b64': v.string(), eof: v.boolean() });
export const fileWritten = v.object({ count, eof: v.boolean() });
