#!/usr/bin/env bash
# What the tests beside this file need, from Debian or Ubuntu, when it is missing.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

if [[ $EUID != 0 ]]; then
    echo "make test-cluster: needs root, for network namespaces and Slurm's daemons" >&2
    exit 2
fi
for command in slurmctld slurmd munged ip unshare pgrep; do
    command -v "$command" >/dev/null && continue
    apt-get -o DPkg::Lock::Timeout=300 update --quiet
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --quiet --yes --no-install-recommends \
        slurm-wlm munge iproute2 util-linux procps
    break
done
