/**
 * What has the guest agent run, on distributions with systemd and with OpenRC. Red Hat's family has it installed, and
 * keeps it from executing commands by its own settings and by SELinux's.
 */
const START = `#!/bin/sh
# Has the QEMU guest agent run: tsvm talks to the guest through it.
settings=/etc/sysconfig/qemu-ga
if [ -f "$settings" ]; then
  sed -i -e 's/^\\(FILTER_RPC_ARGS\\|BLACKLIST_RPC\\|BLOCK_RPCS\\)=.*/\\1=/' "$settings"
  command -v setsebool >/dev/null && setsebool -P virt_qemu_ga_run_unconfined on 2>/dev/null
fi
if command -v systemctl >/dev/null; then
  systemctl enable qemu-guest-agent.service 2>/dev/null
  systemctl restart qemu-guest-agent.service
elif command -v rc-service >/dev/null; then
  rc-update add qemu-guest-agent default
  rc-service qemu-guest-agent restart
fi
`;

const INSTALL = `if ! command -v qemu-ga >/dev/null; then
  if command -v apt-get >/dev/null; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -q && apt-get install -q -y --no-install-recommends qemu-guest-agent
  elif command -v dnf >/dev/null; then
    dnf install -q -y qemu-guest-agent
  elif command -v apk >/dev/null; then
    apk add -q qemu-guest-agent
  elif command -v zypper >/dev/null; then
    zypper -q -n install qemu-guest-agent
  fi
fi
`;

const HEADING = '#!/bin/sh\n';

/** A script that is run at the first boot. */
export function agentScript(install: boolean): string {
  return install ? `${HEADING}${INSTALL}${START.slice(HEADING.length)}` : START;
}
