#!/usr/bin/env bash
# A Python environment of its own for a simulator that cannot live beside the tabletop's MuJoCo:
#   bash launch/worlds.sh metaworld
# makes .worlds/metaworld with rt2_jax, the versions of launch/constraints.txt and those of
# launch/metaworld.txt. Then:
#   .worlds/metaworld/bin/python -m rt2_jax.evaluate --suite=metaworld/mt10 --policy=expert --output=results.json
#
# It has what training and serving need, too. rt2_jax/envs/README.md has the commands for each world.
set -euo pipefail
EXTRAS=${EXTRAS:-serve,web}
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

worlds=(libero metaworld ogbench)
[[ $# == 1 && " ${worlds[*]} " == *" ${1:-} "* ]] ||
    fail "name a world: bash launch/worlds.sh WORLD; known: ${worlds[*]}"
VENV=$ROOT/.worlds/$1
PINS=$ROOT/launch/$1.txt
DRAWS="import os; os.environ.setdefault('MUJOCO_GL', 'egl')
import mujoco; mujoco.GLContext(64, 64).free()"
set_up
printf '%s is ready: %s\n' "$1" "$VENV/bin/python -m rt2_jax.evaluate --suite=$1/..."
