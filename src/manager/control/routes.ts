import type { Duplex } from 'node:stream';
import { setTimeout as sleep } from 'node:timers/promises';
import type { RunningVm } from '../../vmm/types.ts';
import type { AgentClient } from '../agent/client.ts';
import { aborted, HttpError, withBody, type Route } from './http.ts';
import { untilWoken } from './woken.ts';
import {
  balloonRequest,
  execRequest,
  resizeRequest,
  sendRequest,
  snapshotRequest,
  stopRequest,
  waitAgentRequest,
  type ExecAnswer,
  type SnapshotAnswer,
  type SnapshotRequest,
  type VmDescription,
  type VmMetrics,
} from './types.ts';

/** What a VM's own process gives its clients. */
export type ControlledVm = {
  readonly vm: RunningVm;
  readonly agent: AgentClient;
  readonly describe: () => VmDescription;
  readonly metrics: () => VmMetrics;
  /** Runs a command whose standard streams go over this connection, see frames.ts. */
  readonly stream: (client: Duplex, head: Buffer) => void;
  /** Resolves when a guest that goes on from a snapshot has been told what it cannot know: the time, and who it is. */
  readonly woken: Promise<void>;
  /** Notes that the guest agent has answered, and that its guest can be worked with. */
  readonly agentAnswered: () => void;
  readonly agentReady: () => void;
  /** Takes a snapshot into a folder; on a failure all is as before. */
  readonly snapshot?: (request: SnapshotRequest) => Promise<SnapshotAnswer>;
  /** Notes that it was paused or goes on. */
  readonly paused: (paused: boolean) => void;
  /** Asks the guest to power off, or ends the VM. Returns at once. */
  readonly stop: (mode: 'request' | 'force') => void;
};

/** longest tail of the console that is given, in lines */
const TAIL_LINES = 10_000;
/** how often the agent's readiness is asked for within a wait that the client may abort, in milliseconds */
const READY_STEP = 2000;

/** The whole control API. */
export const ROUTES: readonly Route<ControlledVm>[] = [
  { method: 'GET', path: '/v1/vm', handle: ({ describe }) => describe() },
  { method: 'GET', path: '/v1/metrics', handle: ({ metrics }) => metrics() },
  {
    method: 'POST',
    path: '/v1/pause',
    handle: async ({ vm, paused }) => {
      await vm.pause();
      paused(true);
    },
  },
  {
    method: 'POST',
    path: '/v1/resume',
    handle: async ({ vm, paused }) => {
      await vm.resume();
      paused(false);
    },
  },
  { method: 'POST', path: '/v1/reset', handle: ({ vm }) => vm.reset() },
  { method: 'POST', path: '/v1/power-button', handle: ({ vm }) => vm.powerButton() },
  { method: 'POST', path: '/v1/ctrl-alt-del', handle: ({ vm }) => vm.ctrlAltDel() },
  withBody('POST', '/v1/stop', stopRequest, ({ stop }: ControlledVm, { mode }) => stop(mode)),
  withBody('POST', '/v1/snapshot', snapshotRequest, ({ snapshot }: ControlledVm, request) => {
    if (snapshot === undefined)
      throw new HttpError(501, 'ENOSYS', 'snapshots of a VM that runs are not to be had');
    return snapshot(request);
  }),
  {
    method: 'GET',
    path: '/v1/console',
    handle: ({ vm }, { query }) => {
      const lines = Number(query.get('lines') ?? TAIL_LINES);
      if (!Number.isInteger(lines) || lines < 1 || lines > TAIL_LINES)
        throw new HttpError(400, 'EQUERY', `lines is a whole number from 1 to ${TAIL_LINES}`);
      return { text: vm.console.tail(lines) };
    },
  },
  withBody('POST', '/v1/console', sendRequest, async ({ vm }: ControlledVm, { text }, { signal }) => {
    // A guest that takes no input keeps it waiting; the client may give up.
    await Promise.race([vm.console.write(text), aborted(signal)]);
  }),
  withBody(
    'PUT',
    '/v1/disks/{index}/size',
    resizeRequest,
    async ({ vm }: ControlledVm, { size }, { parameters }) => {
      const { index = '' } = parameters;
      if (!/^\d{1,2}$/.test(index)) throw new HttpError(404, 'ENOENT', `there is no disk '${index}'`);
      await vm.resizeDisk(Number(index), size);
    },
  ),
  withBody('PUT', '/v1/balloon', balloonRequest, ({ vm }: ControlledVm, { size }) => {
    if (vm.balloon === undefined) throw new HttpError(409, 'ENODEV', 'the VM has no balloon');
    vm.balloon.resize(size);
  }),
  withBody(
    'POST',
    '/v1/agent/wait',
    waitAgentRequest,
    async ({ agent, agentAnswered, agentReady, woken }: ControlledVm, { timeout }, { signal }) => {
      const end = performance.now() + timeout;
      for (;;) {
        const left = end - performance.now();
        try {
          await agent.waitUntilReady({ timeout: Math.max(1, Math.min(left, READY_STEP)) });
          break;
        } catch (error) {
          if (left <= READY_STEP || signal.aborted) throw error;
          await sleep(50);
        }
      }
      agentAnswered();
      await untilWoken(woken, Math.max(1, end - performance.now()), signal);
      agentReady();
    },
  ),
  withBody(
    'POST',
    '/v1/agent/exec',
    execRequest,
    async ({ agent, woken }: ControlledVm, request, { signal }): Promise<ExecAnswer> => {
      const { command, args, env, input, timeout } = request;
      await untilWoken(woken, timeout, signal);
      const result = await agent.exec(command, args, {
        signal,
        ...(env !== undefined && { env }),
        ...(timeout !== undefined && { timeout }),
        ...(input !== undefined && { input: Buffer.from(input, 'base64') }),
      });
      return {
        exitCode: result.exitCode ?? null,
        signal: result.signal ?? null,
        stdout: result.stdout.toString('base64'),
        stderr: result.stderr.toString('base64'),
        truncated: result.stdoutTruncated || result.stderrTruncated,
      };
    },
  ),
];
