import type { Check } from './check.ts';
import { cpuFlags, type Host, readText } from './host.ts';

/** Whether this machine is a virtual machine itself. */
export async function nestingCheck(host: Host): Promise<Check> {
  const check = {
    id: 'nesting',
    title: 'virtualisation',
    purpose: 'exits from a guest cost several times more in a virtual machine',
  };
  const [flags, vendor, product, hypervisor] = await Promise.all([
    cpuFlags(host),
    readText(host, '/sys/class/dmi/id/sys_vendor'),
    readText(host, '/sys/class/dmi/id/product_name'),
    readText(host, '/sys/hypervisor/type'),
  ]);
  const machine = [...new Set([vendor, product])]
    .filter((part) => part !== undefined && part !== '')
    .join(' ');
  if (!flags.has('hypervisor') && (hypervisor === undefined || hypervisor === '')) {
    return { ...check, status: 'ok', detail: `bare metal${machine === '' ? '' : ` (${machine})`}` };
  }
  const names = [hypervisor, machine].filter((part) => part !== undefined && part !== '').join(', ');
  return {
    ...check,
    status: 'warning',
    detail: `this is a virtual machine${names === '' ? '' : ` (${names})`}: guests are nested`,
    fix: 'for full speed use the physical machine',
  };
}
