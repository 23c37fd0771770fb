import { CAPABILITY_PREFIX, type Check, hintOf, reasonOf } from './check.ts';
import { type Host, hostPath } from './host.ts';

/** What KVM says of itself. */
export type KvmFacts = {
  readonly apiVersion: number;
  readonly capabilities: readonly {
    readonly name: string;
    readonly purpose: string;
    readonly value: number;
  }[];
};

/** @throws what the KVM layer throws, also where the native addon cannot be loaded */
async function kvmFacts(path: string): Promise<KvmFacts> {
  const { Kvm, REQUIRED_CAPABILITIES } = await import('../../kvm/system.ts');
  const kvm = new Kvm(path);
  try {
    return {
      apiVersion: kvm.apiVersion(),
      capabilities: REQUIRED_CAPABILITIES.map(({ name, purpose }) => ({
        name,
        purpose,
        value: kvm.capability(name),
      })),
    };
  } finally {
    kvm.close();
  }
}

/** KVM's API version; undefined where KVM does not open. */
export async function kvmApiVersion(): Promise<number | undefined> {
  try {
    return (await kvmFacts('/dev/kvm')).apiVersion;
  } catch {
    return undefined;
  }
}

export const KVM_API = { id: 'kvm-api', title: 'KVM API', purpose: 'running guests on the CPU itself' };
/** The only version there has been since Linux 2.6.22 (KVM API documentation, 4.1 "KVM_GET_API_VERSION"). */
const API_VERSION = 12;

/** KVM's API version and every capability that tsvm cannot do without. */
export async function kvmApiChecks(host: Host): Promise<Check[]> {
  try {
    return factChecks(await kvmFacts(hostPath(host, '/dev/kvm')));
  } catch (error) {
    const fix = hintOf(error);
    return [{ ...KVM_API, status: 'missing', detail: reasonOf(error), ...(fix !== undefined && { fix }) }];
  }
}

/** The checks that come of what KVM says. */
export function factChecks(facts: KvmFacts): Check[] {
  const newer = 'use Linux 5.10 or newer on this machine; where it is a virtual machine, on its host too';
  const api: Check =
    facts.apiVersion === API_VERSION
      ? { ...KVM_API, status: 'ok', detail: `version ${facts.apiVersion}` }
      : {
          ...KVM_API,
          status: 'missing',
          detail: `version ${facts.apiVersion}, not ${API_VERSION}`,
          fix: newer,
        };
  const capabilities = facts.capabilities.map(({ name, purpose, value }): Check => {
    const id =
      CAPABILITY_PREFIX +
      name
        .replace(/^KVM_CAP_/, '')
        .toLowerCase()
        .replaceAll('_', '-');
    return value > 0
      ? { id, title: name, status: 'ok', detail: 'there', purpose }
      : { id, title: name, status: 'missing', detail: 'not there', purpose, fix: newer };
  });
  return [api, ...capabilities];
}
