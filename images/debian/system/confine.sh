# confine.sh COMMAND...: runs a command so that nothing of it outlives who started us: standard input is a pipe from
# there, and its end is the sign. In a PID namespace of their own (as `unshare --pid` makes it) all of the command's
# descendants go with it, and in a mount namespace of their own its mounts do.
set -eu
exec 3<&0
if unshare --mount --pid --fork --kill-child true 2>/dev/null; then
  unshare --mount --pid --fork --kill-child "$@" </dev/null 3<&- &
else
  "$@" </dev/null 3<&- &
fi
command=$!
{ read -r _ <&3 || :; kill -KILL "$command"; } >/dev/null 2>&1 &
watch=$!
status=0
wait "$command" || status=$?
kill "$watch" 2>/dev/null || :
exit "$status"
