"""Language-Table as a world, see rt2_jax/envs/world.py."""

from __future__ import annotations

from rt2_jax.data.cards import LANGUAGE_TABLE_BRISK
from rt2_jax.envs import world
from rt2_jax.envs.language_table import language_table_env
from rt2_jax.envs.language_table.language_table_simulator import FAMILIES

_SUITES = {
    'blocktoblock': 'a block is pushed to another block',
    'blocktoabsolutelocation': 'a block is pushed to a part of the table',
    'blocktoblockrelativelocation': 'a block is pushed to a side of another block',
    'blocktorelativelocation': 'a block is pushed a little, in a direction',
    'separate': 'a block is pushed away from others',
}

WORLD = world.World(
    name='language_table',
    card=LANGUAGE_TABLE_BRISK,
    suites={**_SUITES, language_table_env.ALL: 'the five families in turn'},
    tasks=FAMILIES,
    max_steps=language_table_env.MAX_STEPS,
    make=language_table_env.LanguageTableEnvironment,
)
