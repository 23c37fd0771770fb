/**
 * One TCP stream between a guest and its host through passt, under tsvm and under QEMU: the same passt, kernel and
 * program, in turn on the same host. `npm run bench:stream -- --help`.
 */
import { Command } from 'commander';
import { join } from 'node:path';
import { buildProgram, LinuxBench, type Contender, type Figure } from '../support/linux-guest.ts';
import { count, warnIfBusy } from '../support/options.ts';

const PORT = 7000;
const GATEWAY = '10.0.2.2';
const MTU = 65520;

const options = new Command('npm run bench:stream --')
  .description("Times one TCP stream each way, and requests with answers, through passt: tsvm's and QEMU's.")
  .option('--runs <n>', 'rounds, each with one boot of both', count, 3)
  .option('--mib <n>', 'MiB each way', count, 16)
  .option('--json', 'print all figures as JSON')
  .parse()
  .opts<{ runs: number; mib: number; json?: true }>();

warnIfBusy();
const bench = await LinuxBench.open();
const program = await buildProgram(join(import.meta.dirname, 'stream.c'));
const scratch = join(bench.host.scratch, 'bench-stream');
const socket = join(scratch, 'passt.sock');

// A host without a route of its own, as in the lab; the gateway is the host's loopback.
const addresses = `--interface lo --address 10.0.2.15 --netmask 24 --gateway ${GATEWAY} --mtu ${MTU}`;
// lo has no hardware address of its own for passt to take.
const passt = `passt --mac-addr 52:56:00:00:00:02 --foreground --one-off --socket ${socket} ${addresses}`;
const setUp =
  'mkdir -p /sys; mount -t sysfs sys /sys; until [ -e /sys/class/net/eth0 ]; do sleep 0.1; done; ' +
  `ip link set lo up; ip link set eth0 mtu ${MTU} up; ip addr add 10.0.2.15/24 dev eth0; ` +
  `ip route add default via ${GATEWAY}`;
const modules = ['virtio_pci', 'virtio_net'];
const contenders: readonly Contender[] = [
  { name: 'tsvm', vmm: 'tsvm', args: ['--net', 'user', '--host-access'], setUp, modules },
  {
    name: 'qemu',
    vmm: 'qemu',
    args: [
      ...['-netdev', `stream,id=n,server=off,addr.type=unix,addr.path=${socket}`],
      ...['-device', 'virtio-net-pci,netdev=n,romfile='],
    ],
    setUp,
    modules,
    beside: `rm -f ${socket}; ${passt} > ${scratch}/passt.log 2>&1 & until [ -e ${socket} ]; do sleep 0.1; done`,
  },
];

try {
  const { host } = bench;
  await host.exec(`rm -rf ${scratch}; mkdir -p -m 777 ${scratch}; ip link set lo up`);
  await host.exec(`cat > ${scratch}/stream && chmod +x ${scratch}/stream`, { stdin: program });
  const server = host.exec(`exec ${scratch}/stream serve ${PORT}`, { timeoutMs: Infinity });
  const figures: Figure[] = [];
  try {
    for (let round = 0; round < options.runs; round++) {
      for (const contender of contenders) {
        const line = `/program measure ${GATEWAY} ${PORT} ${options.mib}`;
        figures.push(...(await bench.measure(round, contender, program, line)));
      }
    }
  } finally {
    await host.exec(`pkill -f '${scratch}/stream serve'`);
    await server;
  }
  bench.report(figures, contenders, options);
} finally {
  await bench.host.exec(`rm -rf ${scratch}`);
  await bench.host.close();
}
