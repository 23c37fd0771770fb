/** A DNS server with one name: `ADDRESS... -- NAME IPV4 IPV6`. Listens on port 53 of the addresses. */
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';

const end = process.argv.indexOf('--');
const [name = '', ip4 = '', ip6 = ''] = process.argv.slice(end + 1);

function answer(query) {
  let at = 12;
  const labels = [];
  for (; query[at] !== 0; at += 1 + query[at])
    labels.push(query.toString('latin1', at + 1, at + 1 + query[at]));
  const type = query.readUInt16BE(at + 1);
  const known = labels.join('.').toLowerCase() === name;
  const data = !known
    ? undefined
    : type === 1
      ? Buffer.from(ip4, 'hex')
      : type === 28
        ? Buffer.from(ip6, 'hex')
        : undefined;
  const header = Buffer.from(query.subarray(0, 12));
  header.writeUInt16BE(known ? 0x8580 : 0x8583, 2);
  header.writeUInt32BE(0x0001_0000 + (data ? 1 : 0), 4);
  header.writeUInt32BE(0, 8);
  const record =
    data && Buffer.concat([Buffer.from([0xc0, 12, 0, type, 0, 1, 0, 0, 0, 60, 0, data.length]), data]);
  return Buffer.concat([header, query.subarray(12, at + 5), ...(record ? [record] : [])]);
}

for (const address of process.argv.slice(2, end)) {
  const socket = createSocket(isIPv6(address) ? 'udp6' : 'udp4');
  socket.on('message', (query, { address: from, port }) => socket.send(answer(query), port, from));
  socket.bind(53, address);
  await once(socket, 'listening');
}
console.log('serving');
