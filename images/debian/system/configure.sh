# Runs in the new system, after all packages are installed.
set -eu

# For the consoles. sshd takes keys only.
usermod --password "$TSVM_PASSWORD_HASH" root
if [ -s /etc/tsvm-authorized-keys ]; then
  install -D -m 600 /etc/tsvm-authorized-keys /root/.ssh/authorized_keys
  chmod 700 /root/.ssh
fi
rm -f /etc/tsvm-authorized-keys

# The first boot makes its own; see ssh.service.d.
rm -f /etc/ssh/ssh_host_*

systemctl enable systemd-networkd.service
ln -sf ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf

# A virtual machine has no screen, and the test of a system wants no work that starts by the clock.
systemctl disable getty@tty1.service \
  apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service
