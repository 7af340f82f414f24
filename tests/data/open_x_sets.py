"""Schemas of the sets of open_x_cards, and what their actions must become, apart from the cards.

The features, their shapes and their types are those of the TFDS catalogue and of the builders that
open_x_cards names; pictures are 16 pixels wide. Which numbers make an action, in which order, and which
end of the gripper is closed were taken from OpenVLA's and Octo's transforms and from the makers, by hand.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

import numpy as np
import open_x
from open_x import flag, flags, floats, ints, text
import tensorflow_datasets as tfds

from rt2_jax.benchmarks import kitchen
from rt2_jax.data.robot import rlds_writer

STEPS = 3
MOVES = 'dx', 'dy', 'dz', 'drx', 'dry', 'drz'


def image(encoding='jpeg'):
    return open_x.image(16, 16, encoding)


def doubles(*shape):
    return tfds.features.Tensor(shape=shape, dtype=np.float64)


@dataclasses.dataclass(frozen=True)
class Set:
    """A set's schema and actions.

    Attributes:
        steps: the features of a step, beside those that all RLDS sets have.
        episode: those of an episode.
        words: path of the instruction.
        cameras: in the card's order.
        moves: (path, entries) of the dimensions but the gripper, in order.
        names: of these dimensions.
        gripper: path and entry.
        values: what its three steps hold there, and what that is: -1 open, +1 closed.
        terminate: path of the feature that ends an episode; '' where only `is_last` does.
        unit: of the first dimension.
        motion: whether the numbers are changes or positions.
        blue_first: whether the published colours are blue, green, red.
    """

    steps: dict[str, Any]
    cameras: tuple[str, ...]
    moves: tuple[tuple[str, tuple[int, ...]], ...]
    episode: dict[str, Any] = dataclasses.field(default_factory=dict)
    words: str = 'language_instruction'
    names: tuple[str, ...] = MOVES
    gripper: tuple[str, int] | None = ('action', 6)
    values: tuple[tuple[float, float], ...] = ()
    terminate: str = ''
    unit: str = 'm'
    motion: str = 'delta'
    blue_first: bool = False

    @property
    def entries(self):
        """Path -> the entries that make the action, in the data's order."""
        entries = dict(self.moves)
        if self.gripper:
            path, entry = self.gripper
            entries[path] = (*entries.get(path, ()), entry)
        return {path: sorted(taken) for path, taken in entries.items()}

    def features(self):
        steps = {**flags('is_first', 'is_last', 'is_terminal'), 'reward': floats(), **self.steps}
        return rlds_writer.features_dict({**self.episode, 'steps': steps})


def keyed(observation, cameras, *, gripper=None, terminate=floats, rotates=True, **fields):
    """A set in RT-1's layout; `observation` beside pictures and language."""
    moves = {'world_vector': floats(3)} | ({'rotation_delta': floats(3)} if rotates else {})
    pictures = {name: image() for name in cameras}
    steps = {
        'action': {**moves, 'terminate_episode': terminate(), **(gripper or {})},
        'observation': {**pictures, **observation, **open_x.language()},
    }
    usual: dict[str, Any] = dict(
        moves=tuple((f'action/{name}', (0, 1, 2)) for name in moves),
        gripper=(f'action/{next(iter(gripper))}', 0) if gripper else None,
        words='observation/natural_language_instruction',
        terminate='action/terminate_episode',
    )
    return Set(steps, tuple(f'observation/{name}' for name in cameras), **(usual | fields))


def vector(length, cameras, observation, more=None, episode=None, **fields):
    """A set that was converted by its makers; `observation` beside the pictures."""
    steps = {
        'action': floats(length),
        'discount': floats(),
        'language_embedding': floats(512),
        'language_instruction': text(),
        'observation': {**{name: image('png') for name in cameras}, **observation},
        **(more or {}),
    }
    usual: dict[str, Any] = dict(
        moves=(('action', tuple(range(6))),),
        episode={'episode_metadata': {'file_path': text(), **(episode or {})}},
    )
    return Set(steps, tuple(f'observation/{name}' for name in cameras), **(usual | fields))


BOTH = 'image', 'wrist_image'
STICKY = ((0, 0), (1, 1), (-1, -1))
OPEN_M1 = ((-1, -1), (1, 1), (1, 1))
OPEN_0 = ((0, -1), (1, 1), (1, 1))
OPEN_1 = ((1, -1), (0, 1), (0, 1))
CLOSEDNESS = 'gripper_closedness_action'
QUATERNION = 'dx', 'dy', 'dz', 'dqx', 'dqy', 'dqz', 'dqw'
RLDS = '_dataset_converted_externally_to_rlds'
STATES = {'state': floats(8), 'state_ee': floats(16), 'state_gripper': floats(1)}
STATES |= {'state_joint': floats(7)}


def libero():
    return Set(
        {
            'action': floats(7),
            'discount': floats(),
            'language_instruction': text(),
            'observation': {
                'image': image(),
                'wrist_image': image(),
                'state': floats(8),
                'joint_state': floats(7),
            },
        },
        ('observation/image', 'observation/wrist_image'),
        (('action', tuple(range(6))),),
        episode={'episode_metadata': {'file_path': text()}},
        values=OPEN_M1,
        unit='1',
    )


def fmb():
    views = 'image_side_1', 'image_side_2', 'image_wrist_1', 'image_wrist_2'
    vectors = dict(eef_force=3, eef_pose=7, eef_torque=3, eef_vel=6, joint_pos=7, joint_vel=7)
    observation = {f'{view}_depth': floats(16, 16) for view in views}
    observation |= {name: floats(length) for name, length in vectors.items()}
    observation |= {f'{name}_id': ints(dtype=np.uint8) for name in ('color', 'object', 'shape')}
    observation |= {name: text() for name in ('length', 'primitive', 'size')}
    observation['state_gripper_pose'] = floats()
    words = 'episode_language_instruction', 'episode_task'
    episode = {name: text() for name in words} | {'episode_language_embedding': floats(512)}
    return vector(7, views, observation, episode=episode, values=OPEN_0, unit='0.06m')


def droid():
    commands = dict(cartesian_position=6, cartesian_velocity=6, gripper_position=1)
    commands |= dict(gripper_velocity=1, joint_position=7, joint_velocity=7)
    states = dict(cartesian_position=6, gripper_position=1, joint_position=7)
    cameras = 'exterior_image_1_left', 'exterior_image_2_left', 'wrist_image_left'
    return Set(
        {
            'action': doubles(7),
            'action_dict': {name: doubles(length) for name, length in commands.items()},
            'discount': floats(),
            **{f'language_instruction{number}': text() for number in ('', '_2', '_3')},
            'observation': {
                **{name: image() for name in cameras},
                **{name: doubles(length) for name, length in states.items()},
            },
        },
        tuple(f'observation/{name}' for name in cameras),
        (('action_dict/cartesian_velocity', tuple(range(6))),),
        episode={'episode_metadata': {'file_path': text(), 'recording_folderpath': text()}},
        gripper=('action_dict/gripper_position', 0),
        values=((0, -1), (0.75, 0.5), (1, 1)),
        unit='0.075m',
    )


def bc_z():
    present = {
        'present/autonomous': ints(dtype=np.int64),
        'present/axis_angle': floats(3),
        'present/intervention': ints(dtype=np.int64),
        'present/sensed_close': floats(1),
        'present/xyz': floats(3),
    }
    return Set(
        {
            'action': {
                'future/axis_angle_residual': floats(30),
                'future/target_close': ints(10, dtype=np.int64),
                'future/xyz_residual': floats(30),
            },
            'observation': {
                'episode_success': floats(),
                'image': image(),
                'sequence_length': ints(dtype=np.int64),
                **present,
                **open_x.language(),
            },
        },
        ('observation/image',),
        (
            ('action/future/xyz_residual', (0, 1, 2)),
            ('action/future/axis_angle_residual', (0, 1, 2)),
        ),
        words='observation/natural_language_instruction',
        gripper=('action/future/target_close', 0),
        values=OPEN_0,
    )


SETS: dict[str, Callable[[], Set]] = {
    'jaco_play': lambda: keyed(
        {
            'end_effector_cartesian_pos': floats(7),
            'end_effector_cartesian_velocity': floats(6),
            'joint_pos': floats(8),
        },
        ('image', 'image_wrist'),
        gripper={CLOSEDNESS: floats(1)},
        terminate=lambda: ints(3),
        rotates=False,
        names=MOVES[:3],
        values=STICKY,
    ),
    'berkeley_cable_routing': lambda: keyed(
        {'robot_state': floats(7)},
        ('image', 'top_image', 'wrist45_image', 'wrist225_image'),
        unit='1',
    ),
    'roboturk': lambda: keyed({}, ('front_rgb',), gripper={CLOSEDNESS: floats(1)}, values=OPEN_M1),
    'nyu_door_opening_surprising_effectiveness': lambda: keyed(
        {}, ('image',), gripper={CLOSEDNESS: floats(1)}, values=STICKY, unit='1'
    ),
    'viola': lambda: keyed(
        {'ee_states': floats(16), 'gripper_states': floats(1), 'joint_states': floats(7)},
        ('agentview_rgb', 'eye_in_hand_rgb'),
        gripper={CLOSEDNESS: floats()},
        values=OPEN_M1,
        unit='1',
    ),
    'toto': lambda: keyed(
        {'state': floats(7)}, ('image',), gripper={'open_gripper': flag()}, values=OPEN_1
    ),
    'bc_z': bc_z,
    f'austin_buds{RLDS}': lambda: vector(7, BOTH, {'state': floats(24)}, values=OPEN_M1, unit='1'),
    f'austin_sailor{RLDS}': lambda: vector(7, BOTH, STATES, values=OPEN_M1, unit='1'),
    f'austin_sirius{RLDS}': lambda: vector(
        7,
        BOTH,
        STATES,
        {'action_mode': floats(1), 'intv_label': floats(1)},
        values=OPEN_M1,
        unit='1',
    ),
    'utaustin_mutex': lambda: vector(
        7, BOTH, {'state': floats(24)}, values=OPEN_M1, unit='1', blue_first=True
    ),
    f'nyu_franka_play{RLDS}': lambda: vector(
        15,
        ('image', 'image_additional_view'),
        {'depth': ints(16, 16, 1), 'depth_additional_view': ints(16, 16, 1), 'state': floats(13)},
        moves=(('action', tuple(range(7, 13))),),
        gripper=('action', 13),
        values=((1, -1), (-1, 1), (-1, 1)),
    ),
    f'furniture_bench{RLDS}': lambda: vector(
        8,
        BOTH,
        {'state': floats(35)},
        {'skill_completion': floats()},
        {'furniture': text(), 'initial_randomness': text()},
        moves=(('action', tuple(range(7))),),
        names=QUATERNION,
        gripper=('action', 7),
        values=OPEN_M1,
    ),
    f'ucsd_kitchen{RLDS}': lambda: vector(
        8,
        ('image',),
        {'state': floats(21)},
        names=('x', 'y', 'z', 'rx', 'ry', 'rz'),
        values=OPEN_1,
        unit='mm',
        motion='absolute',
    ),
    # The gripper is what the next step shows: closed from the first step on.
    'dlr_edan_shared_control_converted_externally_to_rlds': lambda: vector(
        7,
        ('image',),
        {'state': floats(7)},
        moves=(('action', (0, 1, 2, 4, 5, 3)),),
        values=((0, 1), (1, 1), (1, 1)),
    ),
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds': lambda: vector(
        8,
        BOTH,
        {'state': floats(20)},
        moves=(('action', tuple(range(7))),),
        names=('x', 'y', 'z', 'qw', 'qx', 'qy', 'qz'),
        gripper=('action', 7),
        values=OPEN_1,
        motion='absolute',
    ),
    'berkeley_fanuc_manipulation': lambda: vector(
        6,
        BOTH,
        {'end_effector_state': floats(7), 'state': floats(13)},
        gripper=('observation/state', 6),
        values=((1, -1), (0, -1), (0, -1)),
        blue_first=True,
    ),
    'cmu_stretch': lambda: vector(8, ('image',), {'state': floats(4)}, values=OPEN_1),
    'fmb_dataset': fmb,
    'dobbe': lambda: vector(
        7,
        ('wrist_image',),
        {
            'gripper': floats(1),
            'quat': floats(4),
            'rot': floats(3),
            'state': floats(7),
            'xyz': floats(3),
        },
        values=((1, -1), (0.25, 0.5), (0, 1)),
    ),
    'droid': droid,
    **{f'libero_{suite}_no_noops': libero for suite in ('spatial', 'object', 'goal', '10')},
}


def make_episode(a_set, number):
    """Episode `number`, of three steps."""
    rng = np.random.default_rng(number)
    spec = a_set.features()
    steps = []
    for t in range(STEPS):
        step = kitchen.fill(spec['steps'].feature, rng)
        last = t == STEPS - 1
        step |= {'is_first': t == 0, 'is_last': last, 'is_terminal': last}
        put(step, a_set.words, instruction(number, t))
        if a_set.gripper:
            put_entry(step, *a_set.gripper, a_set.values[t][0])
        if a_set.terminate:
            is_one_hot = np.shape(open_x.step_feature(step, a_set.terminate)) == (3,)
            one_hot = np.array([last, not last, 0], np.int32)
            put(step, a_set.terminate, one_hot if is_one_hot else np.float32(last))
        steps.append(step)
    return {'steps': steps, **{key: kitchen.fill(spec[key], rng) for key in spec if key != 'steps'}}


def instruction(number, t):
    return f'put {number} on {t} ←'


def holder(step, path):
    """The dict that holds a step's feature, and its key there; names may have slashes themselves."""
    if path in step:
        return step, path
    head, _, rest = path.partition('/')
    return holder(step[head], rest)


def put(step, path, value):
    inside, key = holder(step, path)
    inside[key] = value


def put_entry(step, path, entry, value):
    inside, key = holder(step, path)
    old = np.array(inside[key])
    old.reshape(-1)[entry] = value
    inside[key] = old


def expected(a_set, steps):
    """What the steps of an episode become: actions float32 [T, L]."""
    rows = []
    for t, step in enumerate(steps):
        moves = [
            np.ravel(open_x.step_feature(step, path))[list(entries)]
            for path, entries in a_set.moves
        ]
        gripper = [a_set.values[t][1]] if a_set.gripper else []
        rows.append([float(step['is_last']), *np.concatenate(moves), *gripper])
    return np.asarray(rows, np.float32)
