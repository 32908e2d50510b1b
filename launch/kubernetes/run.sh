#!/usr/bin/env bash
# Command of a training pod: passes the variables of Kubeflow's operators to launch/torchrun.sh.
#
#   launch/kubernetes/run.sh CONFIG [key=value ...]
#
# Trainer (TrainJob) and the training operator (PyTorchJob with a Master) set the same five PET_ variables.
# RETRY_EXIT_CODE: exit code that makes the operator restart the pod; replaces 75 and the codes of crashes.
set -uo pipefail

for name in PET_NNODES PET_NPROC_PER_NODE PET_NODE_RANK PET_MASTER_ADDR PET_MASTER_PORT; do
    if [[ -z ${!name:-} ]]; then
        echo "launch/kubernetes/run.sh: $name is not set; outside Kubeflow's operators use launch/torchrun.sh" >&2
        exit 2
    fi
done

export NNODES=$PET_NNODES
# The value can be `auto`; torchrun.sh then counts the GPUs itself.
[[ $PET_NPROC_PER_NODE =~ ^[0-9]+$ ]] && export NPROC_PER_NODE=$PET_NPROC_PER_NODE
# The first node holds the rendezvous. Its own DNS name may not resolve yet when it starts.
if [[ $PET_NODE_RANK == 0 ]]; then
    export RDZV_ENDPOINT=localhost:$PET_MASTER_PORT
else
    export RDZV_ENDPOINT=$PET_MASTER_ADDR:$PET_MASTER_PORT
fi
unset "${!PET_@}" # otherwise torchrun reads them as options

torchrun='' signalled=''
# shellcheck disable=SC2329 # the trap calls it
on_signal() {
    signalled=yes
    [[ -n $torchrun ]] && kill -TERM "$torchrun"
}
trap on_signal TERM INT HUP
"$(dirname "$0")/../torchrun.sh" "$@" &
torchrun=$!
[[ -n $signalled ]] && kill -TERM "$torchrun" # a signal arrived before torchrun.sh started
wait "$torchrun"
code=$?
while kill -0 "$torchrun" 2>/dev/null; do # a trapped signal ends `wait`
    wait "$torchrun"
    code=$?
done
case $code in
    0 | 2 | 3 | 4 | 5 | 7) exit "$code" ;; # done, or a restart would fail again
    *) exit "${RETRY_EXIT_CODE:-$code}" ;;
esac
