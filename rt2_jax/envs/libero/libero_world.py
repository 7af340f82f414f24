"""LIBERO as a world, see rt2_jax/envs/world.py."""

from __future__ import annotations

from rt2_jax.data.cards import LIBERO
from rt2_jax.envs import world
from rt2_jax.envs.libero import libero_env, libero_tasks

_SUITES = {
    name: f'{len(tasks)} tasks' if len(tasks) > 1 else libero_tasks.instruction(name)
    for name, tasks in libero_tasks.SUITES.items()
}

WORLD = world.World(
    name='libero',
    card=LIBERO,
    suites=_SUITES,
    tasks=tuple(task for tasks in libero_tasks.BENCHMARKS.values() for task in tasks),
    max_steps=max(libero_tasks.MAX_STEPS.values()),
    make=libero_env.LiberoEnvironment,
)
