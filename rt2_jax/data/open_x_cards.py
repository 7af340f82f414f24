"""Cards of Open X-Embodiment's further sets, of DROID, and of LIBERO as OpenVLA trains on it.

Features, shapes and the words for actions are those of the TFDS catalogue (docs/catalog/NAME.md of
tensorflow/datasets). The order and the sense of numbers follow OpenVLA's transforms
(prismatic/vla/datasets/rlds/oxe/transforms.py of openvla/openvla, c8f03f4) and Octo's
(octo/data/oxe/oxe_standardization_transforms.py of octo-models/octo, 241fb35), which agree on these
sets. Where the set's makers say otherwise the card follows the makers, and its comment says so. Rates
are those of configs/dataset_control_freq.json of thu-ml/RoboticsDiffusionTransformer, b9baaae.

Ranges. A controller that takes -1 to +1 has these. Makers who give none have RANGES_UNKNOWN, and a card
whose ranges hold any value: train on those with `bounds='q01-q99'`, as OpenVLA does.

Colours. kpertsch/rlds_dataset_mod, 461347d (prepare_open_x.sh), turns the channels of some cameras
round before Octo and OpenVLA train on them. `blue_first` does so as the published files are read; a set
that went through that script needs a card of its own without it.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from rt2_jax.data.robot_card import ActionPart, Gripper, RobotCard
from rt2_jax.text.actions import DIMENSIONS, ActionSpace

RT1 = ActionSpace.rt1_bounds()
INSTRUCTION = 'observation/natural_language_instruction'
# RT-1's layout, which many sets of Open X-Embodiment share.
RT1_ACTION = (
    ActionPart('action/world_vector', 0, 3),
    ActionPart('action/rotation_delta', 0, 3),
    ActionPart('action/gripper_closedness_action', 0, 1),
)
# -1 opens, +1 closes, 0 holds.
STICKY = Gripper('relative', closed=1.0, open=-1.0)
# By what open and closed are in the data. Octo and OpenVLA clip the first to 0..1; that open is -1 is
# OpenVLA's comment on LIBERO, and data/preprocess_scripts of RoboticsDiffusionTransformer on the others.
# Where a set has something else, `inspect` warns that the gripper is never open.
OPEN_M1_CLOSED_1 = Gripper('absolute', closed=1.0, open=-1.0, binary=0.05)
OPEN_0_CLOSED_1 = Gripper('absolute', closed=1.0, open=0.0, binary=0.05)
OPEN_1_CLOSED_0 = Gripper('absolute', closed=0.0, open=1.0, binary=0.05)

UNSAID = 'not documented'
BASE = "the robot's base; rotation as roll, pitch, yaw"


def _scaled(metres: str = '1', radians: str = '1') -> ActionSpace:
    """An arm's seven numbers from -1 to +1, in these units."""
    return ActionSpace((-1.0,) * 7, (1.0,) * 7, units=(metres,) * 3 + (radians,) * 3 + ('1',))


# Shares of the greatest move of an operational-space controller, which are a matter of its settings.
# OpenVLA's statistics (config.json of openvla/openvla-7b and of its LIBERO runs) reach 1 for
# translations and 0.375 for rotations.
CONTROLLER = _scaled()
CONTROLLED = 'not documented; moves of an operational-space controller'


def _keyed(name: str, images: tuple[str, ...], **fields: Any) -> RobotCard:
    """A card in RT-1's layout: an action of several features, one of which ends the episode."""
    usual: dict[str, Any] = dict(
        action=RT1_ACTION, action_space=RT1, terminate_rule='flag', frame=UNSAID
    )
    return RobotCard(
        name=name,
        images=tuple(f'observation/{image}' for image in images),
        instruction=INSTRUCTION,
        terminate='action/terminate_episode',
        **(usual | fields),
    )


def _vector(name: str, images: tuple[str, ...], **fields: Any) -> RobotCard:
    """A card of a set whose action is a vector and whose episodes end with the step of `is_last`."""
    usual: dict[str, Any] = dict(
        action=(ActionPart('action', 0, 7),), action_space=RT1, frame=UNSAID
    )
    return RobotCard(
        name=name,
        images=tuple(f'observation/{image}' for image in images),
        instruction='language_instruction',
        terminate='',
        terminate_rule='last_step',
        **(usual | fields),
    )


def _controlled(name: str, **fields: Any) -> RobotCard:
    """A card of a set whose arm an operational-space controller moves, seen from outside and the wrist."""
    usual: dict[str, Any] = dict(
        action_space=CONTROLLER, frequency=20.0, frame=CONTROLLED, gripper=OPEN_M1_CLOSED_1
    )
    return _vector(name, ('image', 'wrist_image'), **(usual | fields))


# An arm that moves its gripper without turning it. Octo and OpenVLA add a rotation of zeros.
JACO_PLAY = _keyed(
    'jaco_play',
    ('image', 'image_wrist'),
    action=(RT1_ACTION[0], RT1_ACTION[2]),
    action_space=ActionSpace(
        (-1.0,) * 4, (1.0,) * 4, ('dx', 'dy', 'dz', 'gripper'), ('m', 'm', 'm', '1')
    ),
    terminate_rule='argmax',
    frequency=10.0,
    gripper=STICKY,
)

# Velocities; the cable is held all the time. Octo and OpenVLA add a gripper of zeros, which is closed
# to them.
BERKELEY_CABLE_ROUTING = _keyed(
    'berkeley_cable_routing',
    ('image', 'top_image', 'wrist45_image', 'wrist225_image'),
    action=RT1_ACTION[:2],
    action_space=ActionSpace((-1.0,) * 6, (1.0,) * 6, DIMENSIONS[:6], ('1',) * 6),
    frequency=10.0,
    frame='not documented; velocities, of which rotation is about z alone',
    gripper=None,
)

ROBOTURK = _keyed('roboturk', ('front_rgb',), frequency=10.0, gripper=OPEN_M1_CLOSED_1)

# Its one camera is on the wrist, for which OpenVLA leaves it out.
NYU_DOOR_OPENING = _keyed(
    'nyu_door_opening_surprising_effectiveness',
    ('image',),
    action_space=dataclasses.replace(RT1, units=('1',) * 7),
    frequency=3.0,
    frame='not documented; velocities',
    gripper=STICKY,
)

VIOLA = _keyed(
    'viola',
    ('agentview_rgb', 'eye_in_hand_rgb'),
    action_space=CONTROLLER,
    frequency=20.0,
    frame=CONTROLLED,
    gripper=OPEN_M1_CLOSED_1,
)

TOTO = _keyed(
    'toto',
    ('image',),
    action=(*RT1_ACTION[:2], ActionPart('action/open_gripper', 0, 1)),
    frequency=30.0,
    gripper=OPEN_1_CLOSED_0,
)

# Each step has the next ten moves, of which the first is the action. Version 0.1.0; OpenVLA calls later
# ones broken.
BC_Z = RobotCard(
    name='bc_z',
    images=('observation/image',),
    instruction=INSTRUCTION,
    action=(
        ActionPart('action/future/xyz_residual', 0, 3),
        ActionPart('action/future/axis_angle_residual', 0, 3),
        ActionPart('action/future/target_close', 0, 1),
    ),
    terminate='',
    terminate_rule='last_step',
    action_space=RT1,
    frequency=10.0,
    frame="the robot's base; rotation as the change of an axis-angle vector",
    gripper=OPEN_0_CLOSED_1,
    columns=('observation/episode_success', 'observation/present/autonomous'),
)

AUSTIN_BUDS = _controlled('austin_buds_dataset_converted_externally_to_rlds')

AUSTIN_SAILOR = _controlled('austin_sailor_dataset_converted_externally_to_rlds')

# `action_mode` tells a person (-1, and 1 where one takes over) from the policy (0).
AUSTIN_SIRIUS = _controlled(
    'austin_sirius_dataset_converted_externally_to_rlds', columns=('action_mode',)
)

UTAUSTIN_MUTEX = _controlled(
    'utaustin_mutex', blue_first=('observation/image', 'observation/wrist_image')
)

# [7 joint velocities, dx, dy, dz, droll, dpitch, dyaw, gripper, terminate], of which the last is
# `is_last` (jeffacce/rlds_dataset_builder, beae4b6). All have one instruction: play with the kitchen.
NYU_FRANKA_PLAY = _vector(
    'nyu_franka_play_dataset_converted_externally_to_rlds',
    ('image', 'image_additional_view'),
    action=(ActionPart('action', 7, 14),),
    frequency=3.0,
    gripper=Gripper('absolute', closed=-1.0, open=1.0, binary=0.05),
)

# The rotation is a quaternion x, y, z, w. Octo and OpenVLA make three angles of it.
FURNITURE_BENCH = _vector(
    'furniture_bench_dataset_converted_externally_to_rlds',
    ('image', 'wrist_image'),
    action=(ActionPart('action', 0, 8),),
    action_space=ActionSpace(
        (-1.0,) * 8,
        (1.0,) * 8,
        ('dx', 'dy', 'dz', 'dqx', 'dqy', 'dqz', 'dqw', 'gripper'),
        ('m', 'm', 'm', '1', '1', '1', '1', '1'),
    ),
    frequency=10.0,
    frame='not documented; rotation as a quaternion x, y, z, w',
    gripper=OPEN_M1_CLOSED_1,
)

# Where the gripper shall be, not a change (geyan21/rlds_dataset_builder, 1f1cb8d: "end-effector position
# and orientation"), in the xArm's millimetres and degrees. Octo and OpenVLA take it as a change. They
# have 1 as open, RoboticsDiffusionTransformer as closed.
UCSD_KITCHEN = _vector(
    'ucsd_kitchen_dataset_converted_externally_to_rlds',
    ('image',),
    action_space=ActionSpace(
        (-1000.0,) * 3 + (-180.0,) * 3 + (-1.0,),
        (1000.0,) * 3 + (180.0,) * 3 + (1.0,),
        ('x', 'y', 'z', 'rx', 'ry', 'rz', 'gripper'),
        ('mm', 'mm', 'mm', 'deg', 'deg', 'deg', '1'),
    ),
    frequency=2.0,
    frame=BASE,
    gripper=OPEN_1_CLOSED_0,
    motion='absolute',
)

# Rotations are stored about z, x, y ("zxy" of SciPy's as_euler; DLR-RM/rlds_dataset_builder, 00f298a).
# The gripper is the hand's state at the step, so that the next one's is what was commanded.
DLR_EDAN = _vector(
    'dlr_edan_shared_control_converted_externally_to_rlds',
    ('image',),
    action=(
        ActionPart('action', 0, 3),
        ActionPart('action', 4, 6),
        ActionPart('action', 3, 4),
        ActionPart('action', 6, 7, following=True),
    ),
    frequency=5.0,
    frame="the robot's base; rotation about z, x and y, in this order",
    gripper=OPEN_0_CLOSED_1,
)

# Where the gripper is a step later, not a change, with a quaternion w, x, y, z; its builder sets no
# `is_last`, so that no episode terminates (mohitsharma0690/rlds_dataset_builder, 54dc290). Octo and
# OpenVLA take it as a change with a quaternion x, y, z, w.
IAMLAB_CMU_PICKUP_INSERT = _vector(
    'iamlab_cmu_pickup_insert_converted_externally_to_rlds',
    ('image', 'wrist_image'),
    action=(ActionPart('action', 0, 8),),
    action_space=ActionSpace(
        (-1.0,) * 8,
        (1.0,) * 8,
        ('x', 'y', 'z', 'qw', 'qx', 'qy', 'qz', 'gripper'),
        ('m', 'm', 'm', '1', '1', '1', '1', '1'),
    ),
    frequency=20.0,
    frame="the robot's base; rotation as a quaternion w, x, y, z",
    gripper=OPEN_1_CLOSED_0,
    motion='absolute',
)

# The action has no gripper: its state a step later stands in, where Octo and OpenVLA take that of the
# step itself, which its picture shows. Its documentation calls it "open status", but 1 is closed.
BERKELEY_FANUC = _vector(
    'berkeley_fanuc_manipulation',
    ('image', 'wrist_image'),
    action=(ActionPart('action', 0, 6), ActionPart('observation/state', 6, 7, following=True)),
    frequency=10.0,
    gripper=OPEN_0_CLOSED_1,
    blue_first=('observation/image', 'observation/wrist_image'),
)

# The eighth number is `is_last`.
CMU_STRETCH = _vector('cmu_stretch', ('image',), frequency=10.0, gripper=OPEN_1_CLOSED_0)

# The set that TFDS calls `fmb`. Each step has the instruction of its stage. The makers' robot closes at 1
# (`set_gripper` of robot_infra/envs/franka_fmb_env.py of rail-berkeley/fmb, 2696a17, whose greatest move
# is 0.06 m and 0.25 rad), which is open to Octo and OpenVLA.
FMB_DATASET = _vector(
    'fmb_dataset',
    ('image_side_1', 'image_side_2', 'image_wrist_1', 'image_wrist_2'),
    action_space=_scaled('0.06m', '0.25rad'),
    frequency=10.0,
    frame=BASE,
    gripper=OPEN_0_CLOSED_1,
)

# A hand-held stick with a camera. What is called the gripper is that of the next frame
# (SudeepDasari/dobbe_rlds_dataset_builder, 62198af).
DOBBE = _vector(
    'dobbe',
    ('wrist_image',),
    frequency=30.0,
    frame='position in a frame that is set anew for each episode; rotation in that of the camera',
    gripper=Gripper('absolute', closed=0.0, open=1.0),
)

# Shares of the greatest move of a step, 0.075 m and 0.15 rad (droid/robot_ik/robot_ik_solver.py of
# droid-dataset/droid, ba46d4a). `action` holds joint velocities; OpenVLA takes these numbers, too, and
# leaves out steps that move nothing. Successes and failures are told apart by `file_path` alone.
DROID = _vector(
    'droid',
    ('exterior_image_1_left', 'exterior_image_2_left', 'wrist_image_left'),
    action=(
        ActionPart('action_dict/cartesian_velocity', 0, 6),
        ActionPart('action_dict/gripper_position', 0, 1),
    ),
    action_space=_scaled('0.075m', '0.15rad'),
    frequency=15.0,
    frame=BASE,
    gripper=Gripper('absolute', closed=1.0, open=0.0),
    state=(
        ActionPart('observation/cartesian_position', 0, 6),
        ActionPart('observation/gripper_position', 0, 1),
    ),
)

# OpenVLA's sets without steps that move nothing, huggingface.co/datasets/openvla/modified_libero_rlds.
# Pictures are upright: the simulator's own are turned by 180 degrees before a policy sees them.
# The state is the gripper's position, its rotation as an axis-angle vector, and its two fingers.
LIBERO = tuple(
    _controlled(f'libero_{suite}_no_noops', state=(ActionPart('observation/state', 0, 8),))
    for suite in ('spatial', 'object', 'goal', '10')
)

CARDS = (
    JACO_PLAY,
    BERKELEY_CABLE_ROUTING,
    ROBOTURK,
    NYU_DOOR_OPENING,
    VIOLA,
    TOTO,
    BC_Z,
    AUSTIN_BUDS,
    AUSTIN_SAILOR,
    AUSTIN_SIRIUS,
    UTAUSTIN_MUTEX,
    NYU_FRANKA_PLAY,
    FURNITURE_BENCH,
    UCSD_KITCHEN,
    DLR_EDAN,
    IAMLAB_CMU_PICKUP_INSERT,
    BERKELEY_FANUC,
    CMU_STRETCH,
    FMB_DATASET,
    DOBBE,
    DROID,
    *LIBERO,
)

_RANGES_KNOWN = (
    VIOLA,
    AUSTIN_BUDS,
    AUSTIN_SAILOR,
    AUSTIN_SIRIUS,
    UTAUSTIN_MUTEX,
    FMB_DATASET,
    DROID,
    *LIBERO,
)
# `named_mixtures` takes the data's own quantiles for these.
RANGES_UNKNOWN = {
    'berkeley_autolab_ur5',
    'kuka',
    'stanford_hydra_dataset_converted_externally_to_rlds',
    *(card.name for card in CARDS if card not in _RANGES_KNOWN),
}
