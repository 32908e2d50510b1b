#!/usr/bin/env bash
# The browser that tests/collapse looks at the report with, from Debian, when it is missing. Where it cannot be
# installed the other tests still run, and that one fails and says so.
set -uo pipefail

for command in chromium chromium-browser google-chrome; do
    command -v "$command" >/dev/null && exit 0
done
if [[ $EUID != 0 ]]; then
    echo "make test: chromium is missing and installing it needs root: apt-get install chromium" >&2
    exit 0
fi
apt-get -o DPkg::Lock::Timeout=300 update --quiet &&
    DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 install --quiet --yes --no-install-recommends chromium ||
    echo "make test: chromium could not be installed" >&2
