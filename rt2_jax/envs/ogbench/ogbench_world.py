"""OGBench as a world, see rt2_jax/envs/world.py."""

from __future__ import annotations

from rt2_jax.data.cards import OGBENCH
from rt2_jax.envs import world
from rt2_jax.envs.ogbench import ogbench_env, ogbench_tasks

_SUITES = {
    name: f'{", ".join(kind.tasks)} among {len(kind.things)} things'
    for name, kind in ogbench_tasks.SUITES.items()
}

WORLD = world.World(
    name='ogbench',
    card=OGBENCH,
    suites=world.with_other_words(_SUITES),
    tasks=tuple(ogbench_tasks.WORDINGS),
    max_steps=ogbench_env.MAX_STEPS,
    make=ogbench_env.OgbenchEnvironment,
)
