#!/usr/bin/env bash
# srun starts this on each node: it runs a command, and hands SLURM's first signal on to it.
#
#   relay.sh COMMAND...                  sends the signal to COMMAND, and returns its exit status
#   relay.sh --torchrun COMMAND...       sends it to the processes that COMMAND, a torchrun, has started, each as
#   relay.sh --rank FILE COMMAND...      runs one process; the first that fails writes its exit status to FILE
#
# SLURM signals the process that srun has started (with cgroups, only that one), and more than once: a preempted job
# gets SIGTERM twice within milliseconds. A training that gets a second signal leaves without saving.
#
# torchrun would hand SIGTERM on, but kill processes after 30 s, and SIGUSR1 would kill it. So it ignores both, as do
# its processes until they set handlers. It exits with 1 whatever the status of its processes, and once one of them
# fails it stops the others, which may be saving. So to torchrun "saved, not finished" is success; FILE has the status.
set -uo pipefail

if [[ $1 == --rank ]]; then
    file=$2
    shift 2
    "$@"
    status=$?
    ((status == 0)) || (set -o noclobber && echo "$status" >"$file") 2>/dev/null
    case $status in 129 | 130 | 138 | 143) exit 0 ;; esac
    exit "$status"
fi

torchrun=
if [[ $1 == --torchrun ]]; then
    torchrun=yes
    shift
fi

handed='' interrupted=
# shellcheck disable=SC2329  # traps call it
hand_on() {
    interrupted=yes
    [[ -n $handed ]] && return
    local receivers=$child
    [[ -z $torchrun ]] || receivers=$(pgrep -P "$child" | xargs -r -n 1 pgrep -P)
    # shellcheck disable=SC2086  # several
    [[ -z $receivers ]] || { kill -s "$1" $receivers && handed=$1; }
}

if [[ -n $torchrun ]]; then
    (trap '' USR1 TERM INT && exec "$@") &
else
    "$@" &
fi
child=$!
for name in USR1 TERM INT HUP; do
    # shellcheck disable=SC2064  # expands the name now
    trap "hand_on $name" "$name"
done
status=127
while :; do # a signal also ends a wait, with a status that is not the command's
    interrupted=
    wait "$child"
    code=$?
    ((code == 127)) || status=$code # 127: an earlier wait already returned the command's
    [[ -n $interrupted ]] || exit "$status"
done
