#!/usr/bin/env bash
# The tests marked "numeric" on kernels that other processors would take: torch's own (ATEN_CPU_CAPABILITY), oneDNN's
# convolutions (ONEDNN_MAX_CPU_ISA) and MKL's products and decompositions (MKL_CBWR; MKL_ENABLE_INSTRUCTIONS, which MKL
# heeds on Intel's processors only), on one thread and on two. Arguments go to pytest.
set -uo pipefail

settings=(
    ATEN_CPU_CAPABILITY=default
    ATEN_CPU_CAPABILITY=avx2
    ONEDNN_MAX_CPU_ISA=AVX2
    ONEDNN_MAX_CPU_ISA=SSE41
    MKL_CBWR=COMPATIBLE
    MKL_CBWR=AVX2
    MKL_ENABLE_INSTRUCTIONS=SSE4_2
)
failed=()
for setting in "${settings[@]}"; do
    for threads in 1 2; do
        echo "$setting OMP_NUM_THREADS=$threads"
        env "$setting" OMP_NUM_THREADS=$threads "${PYTHON:-python}" -m pytest --durations=0 --durations-min=30 \
            -m "numeric and not slow and not long" "$@" || failed+=("$setting OMP_NUM_THREADS=$threads")
    done
done
((${#failed[@]} == 0)) || printf 'failed: %s\n' "${failed[@]}"
exit $((${#failed[@]} > 0))
