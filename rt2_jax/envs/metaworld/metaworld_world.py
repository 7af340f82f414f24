"""Meta-World as a world, see rt2_jax/envs/world.py."""

from __future__ import annotations

from rt2_jax.data.cards import METAWORLD
from rt2_jax.envs import world
from rt2_jax.envs.metaworld import metaworld_env, metaworld_tasks


def _summary(name: str, tasks: tuple[str, ...]) -> str:
    return name if len(tasks) == 1 else f'{len(tasks)} tasks'


_SUITES = {name: _summary(name, tasks) for name, tasks in metaworld_tasks.SUITES.items()}

WORLD = world.World(
    name='metaworld',
    card=METAWORLD,
    suites=world.with_other_words(_SUITES),
    tasks=tuple(metaworld_tasks.TASKS),
    max_steps=metaworld_env.MAX_STEPS,
    make=metaworld_env.MetaworldEnvironment,
)
