#!/usr/bin/env bash
# What the tests of `make test-deploy` need, from Debian or Ubuntu, when it is missing: a browser to look at the report
# and at `biggan serve` with; Slurm's daemons, and network namespaces for two hosts.
set -euo pipefail
PATH=$PATH:/usr/sbin:/sbin

missing() {
    for command in "$@"; do
        command -v "$command" >/dev/null || return 0
    done
    return 1
}

packages=()
if missing chromium && missing chromium-browser && missing google-chrome; then
    packages+=(chromium)
fi
if missing slurmctld slurmd munged ip unshare pgrep; then
    packages+=(slurm-wlm munge iproute2 util-linux procps)
fi
if [[ $EUID != 0 ]]; then
    echo "make test-deploy: needs root, for network namespaces, Slurm's daemons and missing packages: ${packages[*]}" >&2
    exit 2
fi
[[ ${#packages[@]} == 0 ]] && exit 0
apt-get -o DPkg::Lock::Timeout=300 update --quiet
DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --quiet --yes --no-install-recommends \
    "${packages[@]}"
