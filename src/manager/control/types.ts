/** What the process of a running VM and its clients say to each other, as JSON over HTTP on a unix socket. */
import * as v from 'valibot';

/** names of the files in a VM's `run` folder */
export const CONTROL_SOCKET = 'control.sock';
export const CONSOLE_SOCKET = 'console.sock';
export const AGENT_SOCKET = 'agent.sock';

/** A body of a request may be so long: input of a command is the longest, as base64. */
export const BODY_LIMIT = 24 * 1024 * 1024;

/** All in milliseconds since 1970; null for what has not come yet. */
export const bootTimes = v.object({
  /** when the VM's process was started */
  process: v.number(),
  /** when the guest ran for the first time */
  entered: v.number(),
  /** when the guest agent has opened its port */
  agentOpened: v.nullable(v.number()),
  /** when the guest agent has answered one who waited for it, or for a guest that goes on */
  agentAnswered: v.nullable(v.number()),
  /** when that was so, and the guest had been told what it has to know where it goes on */
  agentReady: v.nullable(v.number()),
});
export type BootTimes = v.InferOutput<typeof bootTimes>;

export const vmDescription = v.object({
  name: v.string(),
  state: v.picklist(['running', 'paused', 'stopping']),
  pid: v.number(),
  /** milliseconds since 1970 */
  startedAt: v.number(),
  /** bytes */
  memory: v.number(),
  cpus: v.number(),
  kernel: v.string(),
  version: v.string(),
  boot: bootTimes,
});
export type VmDescription = v.InferOutput<typeof vmDescription>;

export const vmMetrics = v.object({
  /** exits of all vCPUs by reason, since the last boot */
  exits: v.record(v.string(), v.number()),
  devices: v.array(
    v.object({ device: v.string(), reads: v.number(), writes: v.number(), waits: v.number() }),
  ),
  /** requests of each disk that were done since the last boot, and their bytes */
  disks: v.array(
    v.object({ reads: v.number(), readBytes: v.number(), writes: v.number(), writtenBytes: v.number() }),
  ),
  /** frames of each network card since the VM was started, and their bytes */
  networks: v.array(
    v.object({
      receivedFrames: v.number(),
      receivedBytes: v.number(),
      sentFrames: v.number(),
      sentBytes: v.number(),
    }),
  ),
  memory: v.object({
    /** bytes that the guest has been given */
    size: v.number(),
    /** bytes of the process that are in the host's RAM */
    resident: v.number(),
    /** bytes that the balloon holds; null where there is none */
    balloon: v.nullable(v.number()),
  }),
  /** CPU time of the process in seconds */
  cpuTime: v.object({ user: v.number(), system: v.number() }),
});
export type VmMetrics = v.InferOutput<typeof vmMetrics>;

export const stopRequest = v.strictObject({
  /** `request` asks the guest and waits; `force` ends the VM at once, with its disks synced */
  mode: v.optional(v.picklist(['request', 'force']), 'request'),
});

export const sendRequest = v.strictObject({ text: v.pipe(v.string(), v.maxLength(65_536)) });

export const resizeRequest = v.strictObject({
  /** bytes, a multiple of 512 */
  size: v.pipe(v.number(), v.safeInteger(), v.minValue(512), v.multipleOf(512)),
});

export const balloonRequest = v.strictObject({ size: v.pipe(v.number(), v.safeInteger(), v.minValue(0)) });

export const execRequest = v.strictObject({
  command: v.pipe(v.string(), v.minLength(1)),
  args: v.optional(v.array(v.string()), []),
  /** all of its environment; none: the agent's */
  env: v.optional(v.record(v.string(), v.string())),
  /** base64 */
  input: v.optional(v.string()),
  /** milliseconds until it is killed; none: as long as it takes */
  timeout: v.optional(v.pipe(v.number(), v.minValue(1))),
});
export type ExecRequest = v.InferInput<typeof execRequest>;

export const execAnswer = v.object({
  exitCode: v.nullable(v.number()),
  signal: v.nullable(v.number()),
  /** base64 */
  stdout: v.string(),
  stderr: v.string(),
  truncated: v.boolean(),
});
export type ExecAnswer = v.InferOutput<typeof execAnswer>;

/** A command with its standard streams connected, see frames.ts. */
export const streamRequest = v.strictObject({
  ...execRequest.entries,
  input: v.optional(v.undefined()),
  /** whether it has standard input; else that is empty */
  stdin: v.optional(v.boolean(), false),
  /** it gets a terminal of this kind and size; its standard error is that, too */
  terminal: v.optional(
    v.strictObject({
      name: v.pipe(v.string(), v.regex(/^[A-Za-z0-9._+-]{1,64}$/)),
      columns: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65_535)),
      rows: v.pipe(v.number(), v.integer(), v.minValue(1), v.maxValue(65_535)),
    }),
  ),
});
export type StreamRequest = v.InferOutput<typeof streamRequest>;
export type StreamRequestInput = v.InferInput<typeof streamRequest>;

export const waitAgentRequest = v.strictObject({
  /** milliseconds */
  timeout: v.optional(v.pipe(v.number(), v.minValue(1)), 60_000),
});

export const snapshotRequest = v.strictObject({
  /** that is there and empty: of a snapshot that is being made, or what the VM is to go on from; in the VM's folder */
  folder: v.pipe(v.string(), v.regex(/^(snapshots\/\.new-[a-z0-9-]{1,100}|resume)$/)),
  /** or disks only */
  memory: v.boolean(),
  /** the guest runs on until the last of its memory is left */
  live: v.boolean(),
  /** its file systems are frozen at that moment, by its agent */
  quiesce: v.boolean(),
  /** what each disk has goes to this layer, and the disk goes on as an overlay over it */
  layers: v.array(
    v.strictObject({
      disk: v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(25)),
      layer: v.pipe(v.string(), v.regex(/^[0-9a-f]{16}$/)),
    }),
  ),
  /** the VM ends with it */
  stop: v.boolean(),
});
export type SnapshotRequest = v.InferOutput<typeof snapshotRequest>;

export const snapshotAnswer = v.object({
  /** how long the guest stood still, in milliseconds */
  stopMs: v.number(),
  /** that were written for its memory, in bytes */
  memoryBytes: v.number(),
});
export type SnapshotAnswer = v.InferOutput<typeof snapshotAnswer>;

const failure = v.object({
  error: v.object({ code: v.string(), message: v.string(), hint: v.optional(v.string()) }),
});
export const streamResult = v.union([
  v.object({ exitCode: v.nullable(v.number()), signal: v.nullable(v.number()) }),
  failure,
]);
export type StreamResult = v.InferOutput<typeof streamResult>;

export const errorAnswer = failure;
