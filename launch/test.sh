#!/usr/bin/env bash
# The tests on a fresh machine: .venv, pinned install, pytest. Arguments go to pytest:
#   bash launch/test.sh
#   bash launch/test.sh tests/decoding -k grammar
#
#   PARITY=0   leaves out torch and transformers, which on Linux may bring gigabytes of CUDA; the tests
#              against them are then skipped
set -euo pipefail
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

set_up
if [[ ${PARITY:-1} != 0 ]]; then
    add_extra parity
fi
cd "$ROOT"
export JAX_PLATFORMS=cpu
# A file stays with one process, so that what its tests share is made once; files begin in the order of
# tests/conftest.py, longest first, and not those of the most tests.
# Three processes for two cores: a third of a test's time is waiting for processes, servers and disks.
exec python -m pytest -n 3 --dist=loadfile --no-loadscope-reorder --durations=10 "$@"
