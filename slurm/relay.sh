#!/usr/bin/env bash
# What srun starts: runs a command, and hands SLURM's signals on to it.
#
#   relay.sh COMMAND...                  the signals go to COMMAND, and its exit status is returned
#   relay.sh --torchrun COMMAND...       they go to the processes that COMMAND, a torchrun, has started
#   relay.sh --rank FILE COMMAND...      for those processes: writes how the first of them to stop did so into FILE
#
# Three things are wrong without it. SLURM signals a step more than once (SIGTERM twice within milliseconds when it
# preempts a job), and a training that is signalled twice leaves without saving: only the first signal goes through.
# torchrun dies of SIGUSR1, and after a SIGTERM kills what has not ended in 30 s: it gets neither. And torchrun's own
# status is 1 whatever that of its processes was, and a process that leaves with another status than 0 makes it stop the
# others, which may be saving: "saved, not finished" looks like a success to it, and is told by FILE.
set -uo pipefail

mode=
case $1 in
--torchrun) mode=torchrun; shift ;;
--rank) mode=rank file=$2; shift 2 ;;
esac

handed=
hand_on() {
    interrupted=yes
    [[ -n $handed ]] && return
    handed=$1
    if [[ $mode == torchrun ]] && pkill -"$1" -P "$child"; then
        return
    fi
    # A torchrun that has started nothing yet has nothing to save.
    [[ $mode == torchrun ]] && set -- TERM
    kill -s "$1" "$child" 2>/dev/null
}
for name in USR1 TERM INT; do
    # shellcheck disable=SC2064  # the name is meant to be that of now
    trap "hand_on $name" "$name"
done

set -m # a process group of its own: SLURM signals the whole group of what it has started
"$@" &
child=$!
set +m
while :; do # a signal, too, ends a wait, with a status that is not the command's
    interrupted=
    wait "$child"
    status=$?
    [[ -z $interrupted ]] && break
done

if [[ $mode == rank && $status != 0 ]]; then
    (set -o noclobber; echo "$status" >"$file") 2>/dev/null
    case $status in 130 | 138 | 143) exit 0 ;; esac
fi
exit "$status"
