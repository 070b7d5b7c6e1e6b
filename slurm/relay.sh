#!/usr/bin/env bash
# What srun starts on a node: runs a command, and hands the first signal of SLURM on to it.
#
#   relay.sh COMMAND...                  the signal goes to COMMAND, and its exit status is returned
#   relay.sh --torchrun COMMAND...       it goes to the processes that COMMAND, a torchrun, has started with
#   relay.sh --rank FILE COMMAND...      and the first of these that does not succeed writes its exit status into FILE
#
# SLURM signals what srun has started (with cgroups, that and nothing else), and more than once: a preempted job gets
# SIGTERM twice within milliseconds. A training that is told to stop a second time leaves without saving.
#
# torchrun would hand SIGTERM on, but kill what needs longer than 30 s, and die of SIGUSR1: it is made deaf to both, as
# are its processes until they listen themselves. Its own status is 1 whatever that of its processes was, and when one
# leaves with another than 0 it stops the others, which may be saving. So "saved, not finished" looks like success to
# torchrun, and is told by FILE.
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
# shellcheck disable=SC2329  # the traps call it
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
    # shellcheck disable=SC2064  # the name is meant to be that of now
    trap "hand_on $name" "$name"
done
status=127
while :; do # a signal, too, ends a wait, with a status that is not the command's
    interrupted=
    wait "$child"
    code=$?
    ((code == 127)) || status=$code # 127: it had ended, and was waited for, when the signal came
    [[ -n $interrupted ]] || exit "$status"
done
