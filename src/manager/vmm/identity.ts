/** A clone's guest is told who it is: it has the memory, or the disk, of another one. */
import { existsSync, readFileSync } from 'node:fs';
import * as v from 'valibot';
import { CLONE } from '../vms/files.ts';

const address = v.pipe(v.string(), v.regex(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/));

/** Who a clone is to be, as `clone.json` in its folder has it until its guest knows. */
const schema = v.strictObject({
  hostname: v.pipe(v.string(), v.regex(/^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$/)),
  /** systemd's */
  machineId: v.pipe(v.string(), v.regex(/^[0-9a-f]{32}$/)),
  /** cloud-init's, as the clone's seed has it */
  instanceId: v.pipe(v.string(), v.regex(/^[A-Za-z0-9][A-Za-z0-9._-]{0,126}$/)),
  /** of network cards whose address the guest has to change, by the old one */
  addresses: v.pipe(v.array(v.strictObject({ from: address, to: address })), v.maxLength(26)),
  /** cloud-init sees that it is another instance when it boots, and makes what each instance has of its own */
  boots: v.boolean(),
  /** it asks for its addresses again: it may be told others */
  renews: v.optional(v.boolean(), true),
});
export type Identity = v.InferOutput<typeof schema>;

/** @returns undefined where the VM is no clone, or its guest knows */
export function readIdentity(path = CLONE): Identity | undefined {
  if (!existsSync(path)) return undefined;
  const result = v.safeParse(v.pipe(v.string(), v.parseJson(), schema), readFileSync(path, 'utf8'));
  return result.success ? result.output : undefined;
}

/**
 * Lines of a shell's. Arguments: host name, machine-id, instance-id, whether cloud-init is to see another instance (yes
 * or no), whether addresses are asked for again (yes or no), and pairs of old and new addresses of network cards. What a
 * distribution has not is passed over; what fails is said, and leaves 1 in `failed`. Each process that it starts the
 * guest has to fetch from the snapshot first: what the shell can do it does.
 */
export const IDENTITY_SCRIPT = `
umask 022
name=$1 machine=$2 instance=$3 anew=$4 renews=$5
shift 5
failed=0
fail() { echo "$1" >&2; failed=1; }

# The old name in a line, where it is all of a name or a domain follows.
renamed() {
  rest=$1 line=
  while :; do
    case $rest in *"$old"*) ;; *) break ;; esac
    before=\${rest%%"$old"*} rest=\${rest#*"$old"} new=$old
    case $before in
      *[' \t']) case $rest in '' | [' \t.']*) new=$name ;; esac ;;
    esac
    line=$line$before$new
  done
  line=$line$rest
}

IFS= read -r old < /proc/sys/kernel/hostname
if [ "$old" != "$name" ]; then
  # First of all, since what follows may look it up.
  if [ -f /etc/hosts ] && [ -n "$old" ]; then
    hosts= changed=
    while IFS= read -r line || [ -n "$line" ]; do
      was=$line
      renamed "$line"
      [ "$line" = "$was" ] || changed=yes
      hosts="$hosts$line
"
    done < /etc/hosts
    [ -z "$changed" ] || printf '%s' "$hosts" > /etc/hosts
  fi
  [ ! -e /etc/hostname ] || printf '%s\\n' "$name" > /etc/hostname || fail 'host name: /etc/hostname'
  printf '%s' "$name" > /proc/sys/kernel/hostname || fail 'host name'
fi

if [ -e /etc/machine-id ]; then
  printf '%s\\n' "$machine" > /etc/machine-id || fail 'machine-id'
fi
if [ -f /var/lib/dbus/machine-id ] && [ ! -L /var/lib/dbus/machine-id ]; then
  printf '%s\\n' "$machine" > /var/lib/dbus/machine-id || fail 'machine-id of D-Bus'
fi

# What cloud-init did for the other instance was done for this one too.
cloud=/var/lib/cloud
if [ "$anew" = no ] && [ -L $cloud/instance ]; then
  before=$(basename "$(readlink $cloud/instance)")
  if [ "$before" != "$instance" ] && [ -d "$cloud/instances/$before" ]; then
    mv "$cloud/instances/$before" "$cloud/instances/$instance" &&
      ln -sfn "$cloud/instances/$instance" $cloud/instance &&
      printf '%s\\n' "$instance" > $cloud/data/instance-id || fail 'instance-id'
    [ ! -e /run/cloud-init/.instance-id ] || printf '%s\\n' "$instance" > /run/cloud-init/.instance-id
  fi
fi

# Nobody else on a network has the address of a card; those on a network of their own ask again, too.
renew() {
  if command -v networkctl > /dev/null && networkctl status "$1" 2> /dev/null | grep -q 'State: [a-z-]* (configur'; then
    networkctl reload; networkctl reconfigure "$1"
  elif command -v nmcli > /dev/null && nmcli -t -f DEVICE,STATE device 2> /dev/null | grep -q "^$1:connected"; then
    nmcli connection reload; nmcli device reapply "$1" || nmcli device connect "$1"
  elif command -v dhclient > /dev/null && pgrep -f "dhclient.*$1" > /dev/null; then
    pkill -f "dhclient.*$1"; ip address flush dev "$1" scope global; dhclient "$1"
  elif command -v udhcpc > /dev/null && pgrep -f "udhcpc.*$1" > /dev/null; then
    pkill -USR2 -f "udhcpc.*$1"; pkill -USR1 -f "udhcpc.*$1"
  elif command -v dhcpcd > /dev/null && pgrep dhcpcd > /dev/null; then
    dhcpcd -n "$1"
  fi > /dev/null 2>&1
}
while [ $# -ge 2 ]; do
  from=$1 to=$2
  shift 2
  grep -lis "$from" /etc/netplan/*.yaml /etc/systemd/network/* /run/systemd/network/* /etc/network/interfaces.d/* \\
    /etc/udev/rules.d/*net* /etc/NetworkManager/system-connections/* /etc/sysconfig/network-scripts/ifcfg-* |
    while IFS= read -r file; do sed -i "s/$from/$to/Ig" "$file"; done
  found=
  for card in /sys/class/net/*; do
    IFS= read -r address 2> /dev/null < "$card/address" && [ "$address" = "$from" ] && found=\${card##*/} && break
  done
  [ -n "$found" ] || { fail "no network card has the address $from"; continue; }
  ip link set dev "$found" address "$to" 2> /dev/null || {
    ip link set dev "$found" down && ip link set dev "$found" address "$to" && ip link set dev "$found" up
  } || fail "address of $found"
done
[ "$renews" = no ] || for card in /sys/class/net/*; do
  [ -e "$card/device" ] && renew "\${card##*/}"
done
`;

/** For {@link IDENTITY_SCRIPT}. */
export const identityArguments = (identity: Identity): readonly string[] => [
  identity.hostname,
  identity.machineId,
  identity.instanceId,
  identity.boots ? 'yes' : 'no',
  identity.renews ? 'yes' : 'no',
  ...identity.addresses.flatMap(({ from, to }) => [from, to]),
];
