#!/usr/bin/env bash
# Print the container engine that responds: ENGINE if it is set, else docker, else podman.
for engine in ${ENGINE:-docker podman}; do
    if "$engine" info >/dev/null 2>&1; then
        echo "$engine"
        exit 0
    fi
done
echo "no container engine answers (tried: ${ENGINE:-docker podman}); start docker 23+ or podman 4+, or set ENGINE" >&2
exit 2
