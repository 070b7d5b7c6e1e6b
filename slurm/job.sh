# Sourced by the batch scripts: what a job of either kind needs.
# shellcheck shell=bash
set -uo pipefail

say() { echo "slurm: $*"; }

# fail MESSAGE: one line, and the status of a bad request.
fail() {
    echo "slurm: error: $*" >&2
    exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is a batch script: sbatch ${0##*/} ..."
[[ -f main.py ]] || fail "$PWD has no main.py: submit from the suite's folder, or say where it is with sbatch --chdir"

# SLURM's name for this job, or for this task of the array alone: the plain number of one of the tasks is that of the
# whole array too.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3

# What this job's attempt tells itself, on a file system that all of its nodes share; a requeued job has the same number.
notes=.slurm-$SLURM_JOB_ID
rm -rf "$notes"
mkdir "$notes" || fail "$PWD cannot be written"
touch "$notes/start"
trap 'rm -rf "$notes"' EXIT
# SLURM sends SIGTERM to this shell as well: it goes on until the step has ended.
trap : TERM

# value_of FLAG ARGUMENTS...: the last value given for it, spelt with hyphens or underscores, with a space or with =.
value_of() {
    local flag=$1 name value=
    shift
    while (($#)); do
        name=${1%%=*}
        if [[ ${name//_/-} == "$flag" ]]; then
            [[ $1 == *=* ]] && value=${1#*=} || value=${2:-}
        fi
        shift
    done
    echo "${value/#\~\//$HOME/}" # as the scripts understand it
}

# The number of threads has a say in the last bits of a sum: it follows from what was asked for, not from the node.
set_threads() { # set_threads PROCESSES_PER_NODE
    local processors=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processors > $1 ? processors / $1 : 1))}
}

# One task a node, which may use all that the job has there. srun (since 22.05) asks anew for the processors of a task.
step() {
    [[ -n ${SLURM_CPUS_PER_TASK:-} ]] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
        --kill-on-bad-exit=1 bash slurm/relay.sh "$@"
}

# finish STATUS FOLDER: ends the job. A run that was saved but is not finished (129, 130, 138, 143) goes back into the queue,
# unless SLURM is ending the job itself: scancel, preemption, a requeue by somebody else and the end of the time limit
# all show in the job's state, and after the second and third SLURM queues it again. Neither does it go back where this
# attempt has left no checkpoint in FOLDER: it would be stopped at the same place again, for ever.
finish() {
    local status=$1 folder=$2 state
    [[ -f $notes/status ]] && status=$(<"$notes/status")
    case $status in 129 | 130 | 138 | 143) ;; *) exit "$status" ;; esac
    state=$(squeue --noheader --jobs="$job" --format=%T 2>/dev/null)
    if [[ $state != RUNNING ]]; then
        say "stopped by SLURM (${state:-state unknown}); where SLURM does not queue it again, the same sbatch continues it"
    elif [[ -z $(find "$folder" -name last.pth -newer "$notes/start" -print -quit 2>/dev/null) ]]; then
        say "stopped before there was a checkpoint of this attempt in $folder: a longer --time, or a later --signal, is needed"
    elif scontrol requeue "$job"; then
        say "stopped with status $status and saved; $job is queued again"
        exit 0
    else
        say "stopped with status $status and saved, but cannot be queued again; the same sbatch continues it"
    fi
    exit "$status"
}
