# What both batch scripts need; they source this file.
# shellcheck shell=bash
set -uo pipefail

say() { echo "slurm: $*"; }

# fail MESSAGE: prints one line, and exits with the status of a bad request.
fail() {
    echo "slurm: error: $*" >&2
    exit 2
}

[[ -n ${SLURM_JOB_ID:-} ]] || fail "this is a batch script: sbatch ${0##*/} ..."
[[ -f main.py ]] || fail "$PWD has no main.py: submit from the suite's folder, or say where it is with sbatch --chdir"

# SLURM's name for this job, or for this task of an array: the plain number of one task also names the whole array.
job=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
job=${job:-$SLURM_JOB_ID}

python=${PYTHON:-.venv/bin/python}
command -v "$python" >/dev/null || python=python3

# This attempt's notes, on a file system that all nodes share. A requeued job has the same number: old notes go first.
notes=.slurm-$SLURM_JOB_ID
rm -rf "$notes"
mkdir "$notes" || fail "$PWD cannot be written"
touch "$notes/start"
trap 'rm -rf "$notes"' EXIT
# SLURM sends SIGTERM to this shell too, which must wait for the step to end.
trap : TERM

# value_of FLAG ARGUMENTS...: prints the flag's last value, given as --a-flag VALUE or --a_flag=VALUE.
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
    echo "${value/#\~\//$HOME/}" # as the scripts expand it
}

# set_threads PROCESSES_PER_NODE: follows the request, not the node, as the number of threads affects last bits of sums.
set_threads() {
    local processors=${SLURM_CPUS_PER_TASK:-$SLURM_CPUS_ON_NODE}
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((processors > $1 ? processors / $1 : 1))}
}

# step COMMAND...: runs one task per node, with all that the job has there, and returns its status.
# Since 22.05 srun does not inherit the number of processors per task.
step() {
    [[ -n ${SLURM_CPUS_PER_TASK:-} ]] && export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK
    srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" --ntasks-per-node=1 --cpu-bind=none \
        --kill-on-bad-exit=1 bash slurm/relay.sh "$@"
}

# finish STATUS FOLDER: ends the job, and queues it again if the run was saved but is not finished (129, 130, 138, 143).
# Not if SLURM itself is ending the job: scancel, preemption, somebody's requeue and the time limit all show in the
# job's state, and after preemption and requeue SLURM queues it again. And not if this attempt has left no checkpoint in
# FOLDER: the next one would be stopped at the same place, forever.
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
