/**
 * What runs in the guest: shells and tars of all distributions have what is used here, BusyBox's too. What comes is
 * unpacked beside its place, and put there when all of it has come; a command that is told to end removes it.
 */

/** names in the archive that goes into the guest */
export const TREE = 'tree';
export const END = 'end';
/** a line that says so ends what goes into a single file, in bytes */
export const MARK_LENGTH = 32;

const COMMON = `
fail() { printf '%s\\n' "$*" >&2; exit 1; }
need() { command -v "$1" >/dev/null || fail "the guest has no $1"; }
`;

/** $1: where it goes; $2: its name; $3: `folder`, `contents` of one, `file`, or `stream` */
const FIND_PLACE = `
dst=$1 name=$2 kind=$3
case $dst in */) slash=yes ;; *) slash= ;; esac
if [ -d "$dst" ]; then
  case $kind in
    contents) target=\${dst%/}/. base=$target ;;
    stream) fail 'this is a folder' ;;
    *) target=\${dst%/}/$name base=\${dst%/}/. ;;
  esac
elif [ -n "$slash" ]; then fail 'there is no such folder'
else
  target=$dst base=\${dst%/*}/.
  [ -d "$base" ] || fail 'there is no folder that it would be in'
fi
umask 077
`;

/** For files and folders: the archive comes on standard input. $4: who it is to belong to, or empty */
export const COPY_IN = `${COMMON}
need tar; need mktemp
${FIND_PLACE}
is_folder() { [ -d "$1" ] && [ ! -L "$1" ]; }
is_there() { [ -e "$1" ] || [ -L "$1" ]; }
place() {
  if is_folder "$1" && is_folder "$2"; then
    for from in "$1"/* "$1"/.[!.]* "$1"/..?*; do
      is_there "$from" || continue
      place "$from" "$2/\${from##*/}" "$3" || return 1
    done
  elif is_folder "$2"; then fail "$2 is a folder, and what comes is none"
  elif is_folder "$1" && is_there "$2"; then fail "$2 is no folder, and what comes is one"
  elif [ "$3" = move ]; then
    # mv would go on into the folder that such a link leads to.
    if [ -L "$2" ] && [ -d "$2" ]; then rm -f "$2"; fi
    mv -f "$1" "$2"
  fi
}
tmp=$(mktemp -d "$base/.tsvm-cp-XXXXXX") || exit 1
trap 'rm -rf "$tmp"' EXIT
trap 'exit 143' HUP INT TERM
tar -xopf - -C "$tmp" 2>"$tmp/said" || { cat "$tmp/said" >&2; exit 1; }
[ -e "$tmp/${END}" ] || fail 'what came was cut off'
if [ -n "$4" ]; then chown -hR "$4" "$tmp/${TREE}" || exit 1; fi
place "$tmp/${TREE}" "$target" check && place "$tmp/${TREE}" "$target" move
`;

/** For what has no length yet: bytes come on standard input, and then $4, which says that this was all. */
export const WRITE_FILE = `${COMMON}
need mktemp
${FIND_PLACE}
tmp=$(mktemp "$base/.tsvm-cp-XXXXXX") || exit 1
trap 'rm -f "$tmp"' EXIT
trap 'exit 143' HUP INT TERM
cat >"$tmp" || exit 1
[ "$(tail -c ${MARK_LENGTH} "$tmp")" = "$4" ] || fail 'what came was cut off'
size=$(wc -c <"$tmp")
dd if=/dev/null of="$tmp" bs=1 seek=$((size - ${MARK_LENGTH})) 2>/dev/null || fail 'it cannot be written'
if [ -e "$target" ]; then
  chown "$(stat -c %u:%g "$target")" "$tmp" && chmod "$(stat -c %a "$target")" "$tmp" || exit 1
else chmod 644 "$tmp"; fi
mv -f "$tmp" "$target"
`;

/** Writes an archive of $1. $2: whether the link that it is is followed; $3: its folder; $4: its name there */
export const COPY_OUT = `${COMMON}
need tar
folder=$3 name=$4
[ -e "$1" ] || [ -L "$1" ] || fail 'there is no such file or folder'
case $1 in */) [ -d "$1" ] || fail 'this is no folder' ;; esac
if [ -n "$2" ]; then
  real=$(readlink -f "$1") || fail 'the link leads nowhere'
  folder=\${real%/*}/ name=./\${real##*/}
fi
cd "$folder" || exit 1
exec tar -cf - "$name"
`;

/** Writes the content of $1. */
export const READ_FILE = `${COMMON}
[ -e "$1" ] || fail 'there is no such file'
[ ! -d "$1" ] || fail 'this is a folder'
exec cat "$1"
`;
