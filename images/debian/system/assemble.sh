# Builds the system in the current directory, as root of the machine or of a user namespace.
#   in:  repository/ (packages and their index), root/ (files to put over them), configure.sh, mke2fs.conf,
#        partitions (for sfdisk), and TSVM_* in the environment
#   out: disk.raw, vmlinuz, initrd.img, installed
set -eu
umask 022
step() { printf 'tsvm-step: %s\n' "$*"; }

# Files of ours come in before the packages: the initramfs is made by what they say, /etc/fstab above all.
step "installing $TSVM_COUNT packages"
mmdebstrap --mode=root --variant=apt --format=directory --architectures=amd64 --include="$TSVM_PACKAGES" \
  --aptopt='APT::Sandbox::User "root"' --dpkgopt=force-unsafe-io \
  --essential-hook='cp -r root/. "$1" && chmod 755 "$1"/etc/initramfs-tools/hooks/*' \
  --customize-hook='chroot "$1" sh -s <configure.sh' \
  bookworm tree "deb [trusted=yes] copy:$PWD/repository ./"

step 'making the file system'
rm -f tree/etc/apt/apt.conf.d/99mmdebstrap tree/etc/dpkg/dpkg.cfg.d/99mmdebstrap
find tree/dev tree/run tree/tmp tree/proc tree/sys -mindepth 1 -delete
find tree/var/log -type f \( -name '*.log' -o -name '*.xz' \) -delete
find tree/var/cache/apt tree/var/cache/ldconfig tree/var/lib/apt/lists -type f -delete
find tree/var/lib/dpkg tree/var/cache/debconf -type f -name '*-old' -delete
printf %s "$TSVM_SOURCES" >tree/etc/apt/sources.list
: >tree/etc/machine-id
rm -f tree/var/lib/dbus/machine-id tree/var/lib/systemd/random-seed
# What packages say must be done after an update of /usr is done (systemd-update-done.service).
: >tree/etc/.updated
: >tree/var/.updated
find tree -newermt "@$SOURCE_DATE_EPOCH" -exec touch --no-dereference --date="@$SOURCE_DATE_EPOCH" {} +

dpkg-query --admindir=tree/var/lib/dpkg --show --showformat='${Package} ${Version} ${Architecture}\n' >installed
cp tree/boot/vmlinuz-* vmlinuz
cp tree/boot/initrd.img-* initrd.img

truncate --size="$TSVM_DISK_SIZE" disk.raw
sfdisk --quiet disk.raw <partitions
MKE2FS_CONFIG=$PWD/mke2fs.conf E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH mke2fs -q -F -t ext4 -L root -U "$TSVM_ROOT_UUID" \
  -E "offset=$TSVM_ROOT_OFFSET,hash_seed=$TSVM_HASH_SEED,root_owner=0:0" -d tree disk.raw "$TSVM_ROOT_KIB"k
# mke2fs takes these two times from the tree, where they are those of the build. It hands out inodes one by one, from 11.
inodes=$(dumpe2fs -h "disk.raw?offset=$TSVM_ROOT_OFFSET" 2>/dev/null |
  awk -F: '$1 == "Inode count" { all = $2 } $1 == "Free inodes" { free = $2 } END { print all - free }')
for inode in 2 $(seq 11 "$inodes"); do
  for time in atime ctime; do echo "set_inode_field <$inode> $time @$SOURCE_DATE_EPOCH"; done
done >times
E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH debugfs -w -f times "disk.raw?offset=$TSVM_ROOT_OFFSET" >/dev/null
e2fsck -f -n "disk.raw?offset=$TSVM_ROOT_OFFSET" >e2fsck.log 2>&1 || { cat e2fsck.log >&2; exit 1; }
chmod 644 disk.raw vmlinuz initrd.img installed
