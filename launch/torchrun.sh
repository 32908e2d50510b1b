#!/usr/bin/env bash
# Train under torchrun on this node, alone or with others: `biggan train CONFIG [key=value ...]`.
#
#   alone:                  launch/torchrun.sh CONFIG [key=value ...]
#   on each of four nodes:  NNODES=4 RDZV_ENDPOINT=HEAD:29500 launch/torchrun.sh CONFIG [key=value ...]
#
# HEAD is one of the nodes. COMMAND=doctor checks all nodes instead of training. docs/launch.md lists the variables, the
# time limits and the exit codes.
set -uo pipefail

refuse() {
    echo "launch/torchrun.sh: $1" >&2
    exit 2
}

read_settings() {
    python=${PYTHON:-python3}
    command=${COMMAND:-train}
    nodes=${NNODES:-1}
    run_id=${RDZV_ID:-biggan}
    join_seconds=${JOIN_SECONDS:-600}                    # time that nodes wait for each other
    idle_seconds=${IDLE_SECONDS:-$((join_seconds + 60))} # longest time without workers
    shutdown_seconds=${SHUTDOWN_SECONDS:-240}            # time for stopped workers to write a checkpoint
    ((idle_seconds > join_seconds)) ||
        refuse "IDLE_SECONDS is $idle_seconds; it must be more than JOIN_SECONDS, $join_seconds"
    [[ $nodes =~ ^[0-9]+$ ]] || refuse "NNODES is '$nodes'; it must be a number: the batch is shared out to a fixed one"
    if [[ $nodes == 1 ]]; then
        endpoint=localhost:0
    else
        endpoint=${RDZV_ENDPOINT:-}
        [[ $endpoint == *:* ]] || refuse "RDZV_ENDPOINT is '$endpoint'; with NNODES=$nodes it must be HOST:PORT"
    fi
    restarts=${MAX_RESTARTS:-3}
    [[ $command == doctor ]] && restarts=${MAX_RESTARTS:-0} # a restart would give the same findings
    processes=${NPROC_PER_NODE:-$("$python" -c 'import torch; print(torch.cuda.device_count() or 1)')}
    [[ -n $signalled ]] && exit 75 # nothing was started
    ((processes > 0)) || refuse "PYTHON: $python has no torch; activate the virtual environment"
}

export_environment() {
    local cores
    ulimit -S -n "$(ulimit -H -n)" # torchrun's store and every worker have connections to all workers
    cores=$(($(nproc) / processes))
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((cores > 0 ? cores : 1))}
    # If a collective of NCCL times out, each rank writes its last collectives to a file.
    export TORCH_FR_BUFFER_SIZE=${TORCH_FR_BUFFER_SIZE:-2000}
    export TORCH_NCCL_DUMP_ON_TIMEOUT=${TORCH_NCCL_DUMP_ON_TIMEOUT:-1}
    export TORCH_FR_DUMP_TEMP_FILE=${TORCH_FR_DUMP_TEMP_FILE:-/tmp/flight_recorder_${run_id}_rank_}
    # torchrun restarts failed workers and finally exits with 1, so workers write their own exit codes to this file.
    export BIGGAN_EXIT_CODES=$scratch/exit_codes
}

ignores_hangup() { ((0x$(sed -n 's/^SigIgn:[[:space:]]*//p' "/proc/$$/status") & 1)); }

# Start torchrun in the background, without its own tracebacks, which would hide the worker's message.
start_torchrun() {
    local signals=SIGTERM,SIGINT,SIGQUIT
    ignores_hangup || signals+=,SIGHUP # under nohup, torchrun would still end its workers on one
    "$python" -c 'import sys; from torch.distributed.run import main; sys.tracebacklimit = 0; main()' \
        --nnodes "$nodes" --nproc-per-node "$processes" \
        --rdzv-backend c10d --rdzv-endpoint "$endpoint" --rdzv-id "$run_id" \
        --rdzv-conf "join_timeout=$join_seconds" \
        --max-restarts "$restarts" --shutdown-timeout "$shutdown_seconds" --signals-to-handle "$signals" \
        -m biggan "$command" "$@" &
    torchrun=$!
}

# Print the first exit code for which a restart is useless: bad input, non-finite, data, checkpoint, collapsing, stopped.
final_code() { grep -m 1 -xE '2|3|4|5|7|75' "$BIGGAN_EXIT_CODES" 2>/dev/null; }

living_workers() {
    local child
    cat "/proc/$torchrun/task/"*/children 2>/dev/null | tr ' ' '\n' | while read -r child; do
        [[ -e /proc/${child:-none}/exe ]] && echo "$child" # an ended child stays listed until torchrun reaps it
    done
}

# Send TERM to torchrun, which sends it to its workers; watch_torchrun kills it if it has not ended after $1 seconds.
end_torchrun() {
    kill -TERM "$torchrun" 2>/dev/null
    kill_at=$((SECONDS + $1))
}

# shellcheck disable=SC2329 # the trap calls it
on_signal() {
    [[ -n $signalled ]] && return # a second signal would end torchrun's wait for its workers
    signalled=yes
    [[ -n $torchrun ]] && end_torchrun $((shutdown_seconds + 30))
}

# Wait until torchrun has ended, and enforce the time limits.
watch_torchrun() {
    local living last_seen=$SECONDS
    while kill -0 "$torchrun" 2>/dev/null; do
        sleep 1
        living=$(living_workers)
        [[ -n $living ]] && workers=$living last_seen=$SECONDS
        if [[ -n $kill_at ]]; then
            ((SECONDS > kill_at)) && kill -KILL "$torchrun" 2>/dev/null
        elif final_code >/dev/null; then
            end_torchrun $((shutdown_seconds + 30))
        elif ((SECONDS - last_seen > idle_seconds)); then
            echo "launch/torchrun.sh: no worker for $idle_seconds s (IDLE_SECONDS), ending torchrun" >&2
            gave_up=yes
            end_torchrun 10
        fi
    done
}

main() {
    local code final worker
    (($# > 0)) || refuse "which config? launch/torchrun.sh CONFIG [key=value ...]"
    torchrun='' signalled='' gave_up='' kill_at='' workers=''
    trap on_signal TERM INT HUP
    trap : PIPE # a message that nobody reads must not end this script and leave torchrun running
    read_settings
    scratch=$(mktemp -d)
    trap 'rm -rf "$scratch"' EXIT
    export_environment
    start_torchrun "$@"
    [[ -n $signalled ]] && end_torchrun $((shutdown_seconds + 30)) # the signal may have arrived before torchrun started
    watch_torchrun
    wait "$torchrun"
    code=$?
    for worker in $workers; do
        kill -KILL -- "-$worker" 2>/dev/null # a torchrun that was killed leaves its workers behind
    done
    if final=$(final_code); then
        code=$final
    elif [[ -n $gave_up ]]; then
        code=1
    elif [[ -n $signalled && $code != 0 ]]; then
        code=75
    fi
    exit "$code"
}

main "$@" # a function, so that bash reads the whole file first and later edits do not affect it
