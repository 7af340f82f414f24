#!/usr/bin/env bash
# A Python environment of its own for a simulator that cannot live beside the tabletop's MuJoCo:
#   bash launch/worlds.sh metaworld
# makes .worlds/metaworld with rt2_jax, the versions of launch/constraints.txt and those of
# launch/metaworld.txt. Then:
#   .worlds/metaworld/bin/python -m rt2_jax.evaluate --suite=metaworld/mt10 --policy=expert --output=results.json
#
# Language-Table's simulator is on no registry; name a clone of it:
#   git clone https://github.com/google-research/language-table CLONE
#   bash launch/worlds.sh language_table CLONE
#
# It has what training and serving need, too. rt2_jax/envs/README.md has the commands for each world.
set -euo pipefail
EXTRAS=${EXTRAS:-serve,web,lerobot}
# shellcheck source=launch/environment.sh
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

worlds=(language_table libero metaworld ogbench)
[[ $# -ge 1 && $1 != *' '* && " ${worlds[*]} " == *" $1 "* ]] ||
    fail "name a world: bash launch/worlds.sh WORLD; known: ${worlds[*]}"
VENV=$ROOT/.worlds/$1
PINS=$ROOT/launch/$1.txt
clone=${2:-}
if [[ $1 == language_table ]]; then
    [[ $# == 2 && -f $clone/language_table/environments/language_table.py ]] ||
        fail "name a clone of the simulator: git clone https://github.com/google-research/language-table CLONE;
bash launch/worlds.sh $1 CLONE (tried: 5b7bf0e)"
    GRAPHICS=''  # pybullet draws by itself
else
    [[ $# == 1 ]] || fail "unknown argument: $clone"
    DRAWS="import os; os.environ.setdefault('MUJOCO_GL', 'egl')
import mujoco; mujoco.GLContext(64, 64).free()"
fi
set_up
if [[ -n $clone ]]; then
    (cd "$clone" && pwd) >"$("$VENV/bin/python" -c 'import site; print(site.getsitepackages()[0])')/$1.pth"
fi
printf '%s is ready: %s\n' "$1" "$VENV/bin/python -m rt2_jax.evaluate --suite=$1/..."
