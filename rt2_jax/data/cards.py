"""The robot cards: what a data set's features are called and what its actions mean.

A card is a declaration. The indexer reads it to know which features to keep and how an action
vector is put together; everything downstream sees the same numbers whatever the robot. A robot of
your own has its card in a JSON file (see `find`). Further sets of Open X-Embodiment are in
`open_x_cards`.

Schemas are those of the data sets' own features.json; conventions were looked up in Octo's
oxe_standardization_transforms.py, OpenVLA's transforms.py and the sets' own documentation. Ranges
are RT-1's where the set's makers give none: `inspect` says how many bins that leaves in use, and
`bounds='q01-q99'` takes the data's own.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from rt2_jax.data import card_json, files, open_x_cards
from rt2_jax.data.data_errors import CardError, lfs_remedy
from rt2_jax.data.open_x_cards import INSTRUCTION, RT1, RT1_ACTION, STICKY
from rt2_jax.data.robot_card import ActionPart, Gripper, RobotCard
from rt2_jax.nearest import nearest
from rt2_jax.text.actions import ActionSpace

TABLETOP = RobotCard(
    name='tabletop',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=RT1_ACTION,
    terminate='action/terminate_episode',
    terminate_rule='flag',
    action_space=RT1,
    frequency=3.0,
    frame="world: x to the right, y away from the camera, z up; deltas of the gripper's pose",
    gripper=Gripper('absolute', closed=1.0, open=-1.0),
    success='episode_metadata/success',
    columns=(
        'observation/gripper_xyz',
        'observation/gripper_yaw',
        'observation/gripper_pixel',
        'observation/gripper_opening',
        'observation/object_names',
        'observation/object_pixels',
    ),
)

# The kitchen data of RT-1 and RT-2.
FRACTAL = RobotCard(
    name='fractal20220817_data',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=RT1_ACTION,
    terminate='action/terminate_episode',
    terminate_rule='argmax',
    action_space=RT1,
    frequency=3.0,
    frame="the robot's base; rotation as roll, pitch, yaw",
    gripper=STICKY,
    success='aspects/success',
)

# Bridge V2 as its makers publish it. 99 % of its actions lie within +-0.042 m and +-0.21 rad
# (OpenVLA's statistics of `bridge_orig`); symmetric ranges around that keep zero exact.
BRIDGE_SPACE = dataclasses.replace(
    RT1, low=(-0.05,) * 3 + (-0.25,) * 3 + (-1.0,), high=(0.05,) * 3 + (0.25,) * 3 + (1.0,)
)
BRIDGE_DATASET = RobotCard(
    name='bridge_dataset',
    images=tuple(f'observation/image_{i}' for i in range(4)),
    instruction='language_instruction',
    action=(ActionPart('action', 0, 7),),
    terminate='',
    terminate_rule='last_step',
    action_space=BRIDGE_SPACE,
    frequency=5.0,
    frame="the robot's base; rotation as roll, pitch, yaw",
    gripper=Gripper('absolute', closed=0.0, open=1.0, binary=0.05),
    drop_zero_first=True,
    state=(ActionPart('observation/state', 0, 7),),
)

# Open X-Embodiment's older copy.
BRIDGE = RobotCard(
    name='bridge',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=(*RT1_ACTION[:2], ActionPart('action/open_gripper', 0, 1)),
    terminate='action/terminate_episode',
    terminate_rule='flag',
    action_space=BRIDGE_SPACE,
    frequency=5.0,
    frame="the robot's base; rotation as roll, pitch, yaw",
    gripper=Gripper('absolute', closed=0.0, open=1.0, binary=0.05),
    drop_zero_first=True,
)

LANGUAGE_TABLE = RobotCard(
    name='language_table',
    images=('observation/rgb',),
    instruction='observation/instruction',
    action=(ActionPart('action', 0, 2),),
    terminate='',
    terminate_rule='none',
    action_space=ActionSpace.language_table(),
    last_step_action=False,  # by RLDS's rule; no flag is in it
    frequency=10.0,
    frame="the table's plane: the change of the effector's set-point",
    gripper=None,
    columns=('observation/effector_translation', 'observation/effector_target_translation'),
)
# The simulator's sets, in the same schema (google-research/language-table).
LANGUAGE_TABLE_SIM = (
    'language_table_sim',
    'language_table_blocktoblock_sim',
    'language_table_blocktoblock_4block_sim',
    'language_table_blocktoblock_oracle_sim',
    'language_table_blocktoblockrelative_oracle_sim',
    'language_table_blocktoabsolute_oracle_sim',
    'language_table_blocktorelative_oracle_sim',
    'language_table_separate_oracle_sim',
)
# Its simulator by an oracle that doesn't slow down (rt2_jax/envs/language_table), and whose actions fail if
# they are rounded to 1 cm.
LANGUAGE_TABLE_BRISK = dataclasses.replace(
    LANGUAGE_TABLE,
    name='language_table_brisk',
    action_space=ActionSpace(
        low=(-0.035,) * 2,  # the oracle's fastest, 0.35 m/s
        high=(0.035,) * 2,
        names=('dx', 'dy'),
        units=('m', 'm'),
        terminate=False,
    ),
    success='episode_metadata/success',
    columns=(
        *LANGUAGE_TABLE.columns,
        'observation/gripper_pixel',
        'observation/object_names',
        'observation/object_pixels',
        'observation/plan',
    ),
)

# Its documentation gives both senses of the gripper; CALVIN's format, which it is in, and Octo have
# +1 open. Translations are in units of 1/50 m and rotations of 1/20 rad, clipped to +-1.
TACO_PLAY = RobotCard(
    name='taco_play',
    images=('observation/rgb_static', 'observation/rgb_gripper'),
    instruction=INSTRUCTION,
    action=(ActionPart('action/rel_actions_world', 0, 7),),
    terminate='action/terminate_episode',
    terminate_rule='flag',
    action_space=ActionSpace(
        low=(-1.0,) * 7, high=(1.0,) * 7, units=('0.02m',) * 3 + ('0.05rad',) * 3 + ('1',)
    ),
    frequency=15.0,
    frame="the robot's base; rotation as Euler angles x, y, z",
    gripper=Gripper('absolute', closed=-1.0, open=1.0, binary=0.05),
)

BERKELEY_AUTOLAB_UR5 = RobotCard(
    name='berkeley_autolab_ur5',
    images=('observation/image', 'observation/hand_image'),
    instruction=INSTRUCTION,
    action=RT1_ACTION,
    terminate='action/terminate_episode',
    terminate_rule='flag',
    action_space=RT1,
    frequency=5.0,
    frame="the robot's base; rotation as roll, pitch, yaw",
    gripper=STICKY,
    blue_first=('observation/hand_image',),  # see open_x_cards
)

# QT-Opt's bin picking: every instruction is the same, which Octo throws away as uninformative.
KUKA = RobotCard(
    name='kuka',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=RT1_ACTION,
    terminate='action/terminate_episode',
    terminate_rule='argmax',
    action_space=RT1,
    frequency=10.0,
    frame="the robot's base; rotation as roll, pitch, yaw",
    gripper=STICKY,
    success='success',
    columns=('observation/gripper_closed',),
)

STANFORD_HYDRA = RobotCard(
    name='stanford_hydra_dataset_converted_externally_to_rlds',
    images=('observation/image', 'observation/wrist_image'),
    instruction='language_instruction',
    action=(ActionPart('action', 0, 7),),
    terminate='',
    terminate_rule='last_step',
    action_space=RT1,
    frequency=10.0,
    frame="the robot's base; rotation as Euler angles",
    gripper=Gripper('absolute', closed=1.0, open=0.0, binary=0.05),
    blue_first=('observation/image', 'observation/wrist_image'),
)

# What rt2_jax.envs.metaworld.collect writes. An action is what the simulator takes, five times over: the
# change of the set-point in centimetres, and the fingers' effort.
METAWORLD = RobotCard(
    name='metaworld',
    images=('observation/image', 'observation/top'),
    instruction=INSTRUCTION,
    action=(ActionPart('action', 0, 4),),
    terminate='terminate_episode',
    terminate_rule='flag',
    action_space=ActionSpace(
        low=(-1.0,) * 4,
        high=(1.0,) * 4,
        names=('dx', 'dy', 'dz', 'gripper'),
        units=('0.01m',) * 3 + ('1',),
    ),
    frequency=16.0,
    frame="world: x to the right of the robot's back, y away from it, z up; changes of the hand's set-point",
    gripper=Gripper('absolute', closed=1.0, open=-1.0),
    success='episode_metadata/success',
    columns=(
        'observation/state',
        'observation/gripper_pixel',
        'observation/object_names',
        'observation/object_pixels',
        'observation/plan',
    ),
    state=(
        ActionPart('observation/state', 0, 4),
    ),  # the hand's x, y, z in metres; how far it is open
)

# What rt2_jax.envs.ogbench.collect writes. An action is what the simulator takes, twice over: the way from
# where the hand is, as shares of 5 cm and 0.3 rad; the fingers close, open, or stay.
OGBENCH = RobotCard(
    name='ogbench',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=(ActionPart('action', 0, 5),),
    terminate='terminate_episode',
    terminate_rule='flag',
    action_space=ActionSpace(
        low=(-1.0,) * 5,
        high=(1.0,) * 5,
        names=('dx', 'dy', 'dz', 'drz', 'gripper'),
        units=('0.05m',) * 3 + ('0.3rad', '1'),
    ),
    frequency=10.0,
    frame="the robot's base: x towards the camera, y to its right, z up; from where the hand is",
    gripper=STICKY,
    success='episode_metadata/success',
    columns=('observation/state', 'observation/object_names', 'observation/object_places'),
)

# What rt2_jax.envs.libero.collect writes: the schema of OpenVLA's sets, and which episodes succeeded.
LIBERO = dataclasses.replace(
    open_x_cards.LIBERO[0], name='libero', success='episode_metadata/success'
)

CARDS = {
    card.name: card
    for card in (
        TABLETOP,
        METAWORLD,
        OGBENCH,
        LIBERO,
        FRACTAL,
        BRIDGE_DATASET,
        BRIDGE,
        LANGUAGE_TABLE,
        *(dataclasses.replace(LANGUAGE_TABLE, name=name) for name in LANGUAGE_TABLE_SIM),
        LANGUAGE_TABLE_BRISK,
        TACO_PLAY,
        BERKELEY_AUTOLAB_UR5,
        KUKA,
        STANFORD_HYDRA,
        *open_x_cards.CARDS,
    )
}


def find(name: str) -> RobotCard:
    """The card called `name`, or the one in the file FILE.json.

    Such a file holds a card's fields as `dataclasses.asdict` gives them. A run's embodiment.json will do
    as well, if the run learnt from robots of one card.

    Raises:
        CardError: there is no such card or file, or the file holds none; says which field is wrong.
    """
    if name.endswith('.json'):
        return _read(name)
    if name not in CARDS:
        raise CardError(
            f'no embodiment card called {name!r}{nearest(name, CARDS)}. A card of your own is given as '
            'FILE.json'
        )
    return CARDS[name]


def known(name: str) -> RobotCard | None:
    """As `find`; None where there is no such card or file."""
    if name.endswith('.json'):
        return _read(name) if files.path(name).exists() else None
    return CARDS.get(name)


def _of_run(record: dict[str, Any]) -> Any:
    """The card of what a run's embodiment.json records: of the robots that it learnt from, else its own."""
    cards = record.get('cards') or {'embodiment': record['embodiment']}
    different = {json.dumps(card, sort_keys=True): name for name, card in cards.items()}
    if len(different) > 1:
        raise CardError(
            f'the run learnt from several robots, {", ".join(sorted(different.values()))}: write the '
            "one that is meant, from the file's `cards`, into a file of its own"
        )
    return next(iter(cards.values()))


def _read(path: str) -> RobotCard:
    if not files.path(path).exists():
        raise CardError(f'no card at {path}: there is no such file')
    content = files.read(path)
    try:
        fields = card_json.parsed(content)
        if isinstance(fields, dict) and 'embodiment' in fields:
            fields = _of_run(fields)
        return RobotCard.from_json(fields)
    except CardError as error:
        raise CardError(f'{path}: {error}') from error
    except (ValueError, RecursionError) as error:
        reason = lfs_remedy(content) or f'not JSON: {error}'
        raise CardError(f'{path}: {reason}') from error
