#!/usr/bin/env bash
# Smoke test of the image, run inside it with a uid that it does not know (make docker-smoke):
# pack the digits, train two steps on two processes, resume, stop with SIGTERM, and sample from the checkpoint.
set -euo pipefail
cd /workspace
export OMP_NUM_THREADS=1 NPROC_PER_NODE=2
settings=(configs/digits.yaml training.log_every_steps=1 run.dir=runs/smoke)

touch "$HOME/writable"
biggan pack digits data/digits --resolution 32
launch/torchrun.sh "${settings[@]}" training.steps=2

launch/torchrun.sh "${settings[@]}" training.steps=100000 &
run=$!
until (($(wc -l <runs/smoke/metrics.jsonl) > 3)); do
    kill -0 "$run"
    sleep 1
done
kill -TERM "$run"
code=0
wait "$run" || code=$?
((code == 75)) || { echo "smoke: exit code after SIGTERM is $code, expected 75" >&2; exit 1; }
biggan sample runs/smoke --seed 1 --out runs/smoke/samples.png
echo "smoke: trained, stopped with a checkpoint and exit code 75, sampled, as uid $(id -u)"
