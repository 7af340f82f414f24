"""Small episodes in the true schemas of the data sets that cards describe.

The schemas are those of the TFDS catalogue and of the sets' features.json. What an episode must
become is written out by hand for each set, apart from the cards.
"""

import numpy as np
import tensorflow_datasets as tfds

from rt2_jax.benchmarks import kitchen
from rt2_jax.data import cards, images
from rt2_jax.data.robot import rlds_writer

f = tfds.features
SIM = 'language_table_blocktoblock_4block_sim'
NAMES = (
    'fractal20220817_data',
    'bridge_dataset',
    'bridge',
    'language_table',
    SIM,
    'taco_play',
    'berkeley_autolab_ur5',
    'kuka',
    'stanford_hydra_dataset_converted_externally_to_rlds',
)


# Cameras of the published files whose colours are blue, green, red (kpertsch/rlds_dataset_mod).
BLUE_FIRST = {
    'berkeley_autolab_ur5': ('observation/hand_image',),
    'stanford_hydra_dataset_converted_externally_to_rlds': (
        'observation/image',
        'observation/wrist_image',
    ),
}


def floats(*shape, encoding='none'):
    return f.Tensor(shape=shape, dtype=np.float32, encoding=encoding)


def ints(*shape, dtype=np.int32):
    return f.Tensor(shape=shape, dtype=dtype)


def text():
    return f.Tensor(shape=(), dtype=np.str_)


def flag():
    return f.Tensor(shape=(), dtype=np.bool_)


def flags(*names):
    return {name: flag() for name in names}


def image(height, width, encoding='jpeg'):
    return f.Image(shape=(height, width, 3), encoding_format=encoding)


def rt1_action(**others):
    return {'world_vector': floats(3), 'rotation_delta': floats(3)} | others


def language():
    return {'natural_language_instruction': text(), 'natural_language_embedding': floats(512)}


def features(name):
    """The schema of a data set."""
    steps, episode = SPECS[name.replace('_blocktoblock_4block_sim', '')]()
    steps = {**flags('is_first', 'is_last', 'is_terminal'), 'reward': floats(), **steps}
    return rlds_writer.features_dict({**episode, 'steps': steps})


def bridge_dataset():
    images = {f'image_{i}': image(256, 256) for i in range(4)}
    steps = {
        'action': floats(7),
        'observation': {**images, 'state': floats(7)},
        'language_instruction': text(),
        'language_embedding': floats(512),
        'discount': floats(),
    }
    metadata = {'file_path': text(), **flags('has_image_0', 'has_image_1', 'has_language')}
    return steps, {'episode_metadata': metadata}


def bridge():
    action = rt1_action(open_gripper=flag(), terminate_episode=floats())
    observation = {'image': image(480, 640), 'state': floats(7), **language()}
    return {'action': action, 'observation': observation}, {}


def language_table():
    observation = {
        'rgb': image(360, 640),
        'effector_translation': floats(2),
        'effector_target_translation': floats(2),
        'instruction': ints(512),
    }
    return {'action': floats(2), 'observation': observation}, {'episode_id': text()}


def taco_play():
    action = {
        name: floats(7) for name in ('actions', 'rel_actions_world', 'rel_actions_gripper')
    } | {'terminate_episode': floats()}
    observation = {
        'rgb_static': image(150, 200),
        'rgb_gripper': image(84, 84),
        'depth_gripper': floats(84, 84),
        'robot_obs': floats(15),
        'structured_language_instruction': text(),
        **language(),
    }
    return {'action': action, 'observation': observation}, {}


def berkeley_autolab_ur5():
    action = rt1_action(gripper_closedness_action=floats(), terminate_episode=floats())
    observation = {
        'image': image(480, 640),
        'hand_image': image(480, 640),
        'robot_state': floats(15),
        **language(),
    }
    return {'action': action, 'observation': observation}, {}


def kuka():
    action = rt1_action(gripper_closedness_action=floats(1), terminate_episode=ints(3))
    observation = {
        'image': image(512, 640),
        'clip_function_input/base_pose_tool_reached': floats(7, encoding='zlib'),
        'clip_function_input/workspace_bounds': floats(3, 3, encoding='zlib'),
        'gripper_closed': floats(1, encoding='zlib'),
        'task_id': floats(1, encoding='zlib'),
        **language(),
    }
    return {'action': action, 'observation': observation}, {'success': flag()}


def stanford_hydra():
    steps = {
        'action': floats(7),
        'observation': {
            'image': image(240, 320, 'png'),
            'wrist_image': image(240, 320, 'png'),
            'state': floats(27),
        },
        'language_instruction': f.Text(),
        'is_dense': f.Scalar(dtype=np.bool_),
        'discount': f.Scalar(dtype=np.float32),
    }
    return steps, {'episode_metadata': {'file_path': f.Text()}}


SPECS = dict(
    zip(
        [name for name in NAMES if name != SIM],
        (
            kitchen.spec,
            bridge_dataset,
            bridge,
            language_table,
            taco_play,
            berkeley_autolab_ur5,
            kuka,
            stanford_hydra,
        ),
        strict=True,
    )
)


def make_episode(name, number, instruction=None):
    """Episode `number`, 4 to 6 steps: nested as the schema; a function of (name, number) alone."""
    rng = np.random.default_rng(number)
    length = 4 + number % 3
    spec = features(name)
    steps = [kitchen.fill(spec['steps'].feature, rng) for _ in range(length)]
    if instruction is None:
        instruction = f'schiebe Würfel {number} nach ←'
    for t, step in enumerate(steps):
        last = t == length - 1
        step |= {'is_first': t == 0, 'is_last': last, 'is_terminal': last}
        set_action(name, step, t, last, rng)
        set_instruction(step, instruction)
    rest = {key: kitchen.fill(spec[key], rng) for key in spec if key != 'steps'}
    if 'aspects' in rest:
        rest['aspects']['success'] = number % 2 == 0
    if 'success' in rest:
        rest['success'] = number % 2 == 0
    return {'steps': steps, **rest}


def set_action(name, step, t, last, rng):
    """The gripper, the null step and the end as the set's recordings have them."""
    action = step['action']
    one_hot = np.array([last, not last, 0], np.int32)
    sticky = np.float32(rng.choice([-1, 0, 1]))
    if name in ('fractal20220817_data', 'kuka'):
        action |= {'gripper_closedness_action': sticky.reshape(1), 'terminate_episode': one_hot}
    elif name == 'berkeley_autolab_ur5':
        action |= {'gripper_closedness_action': sticky, 'terminate_episode': np.float32(last)}
    elif name == 'taco_play':
        action['rel_actions_world'][6] = rng.choice([-1, 1])
        action['terminate_episode'] = np.float32(last)
    elif name == 'bridge':
        action['terminate_episode'] = np.float32(last)
        if t == 0:
            action |= {'world_vector': np.zeros(3, np.float32), 'open_gripper': True}
            action['rotation_delta'] = np.zeros(3, np.float32)
    elif name == 'bridge_dataset':
        action[6] = (1, 0.96, 0.5, 0.3, 0, 0.7)[t]
        action[:6] *= t > 0
    elif name.startswith('stanford'):
        action[6] = t % 2
    elif name.startswith('language_table'):
        action *= 2


def set_instruction(step, instruction):
    observation = step['observation']
    if 'instruction' in observation:
        encoded = np.frombuffer(instruction.encode(), np.uint8)
        observation['instruction'] = np.zeros(512, np.int32)
        observation['instruction'][: len(encoded)] = encoded
    elif 'natural_language_instruction' in observation:
        observation['natural_language_instruction'] = instruction
    else:
        step['language_instruction'] = instruction


def settled(opens):
    """Bridge's continuous openness made 0 or 1: a gripper on its way counts as arrived."""
    result, coming = [], round(opens[-1])
    for value in reversed(opens):
        coming = 1 if value >= 0.95 else 0 if value <= 0.05 else coming
        result.append(coming)
    return result[::-1]


def expected(name, steps):
    """What the steps of an episode become: (their numbers, actions float32 [T, L])."""
    action = [step['action'] for step in steps]
    ends = [float(step['is_last']) for step in steps]
    first = 1 if name in ('bridge', 'bridge_dataset') else 0
    kept = range(first, len(steps) - name.startswith('language_table'))
    if name in ('fractal20220817_data', 'kuka', 'berkeley_autolab_ur5'):
        parts = ('world_vector', 'rotation_delta', 'gripper_closedness_action')
        rows = [[e, *np.hstack([a[p] for p in parts])] for a, e in zip(action, ends, strict=True)]
    elif name == 'bridge':
        rows = [
            [e, *a['world_vector'], *a['rotation_delta'], -1 if a['open_gripper'] else 1]
            for a, e in zip(action, ends, strict=True)
        ]
    elif name == 'bridge_dataset':
        opens = settled([float(a[6]) for a in action])
        rows = [[e, *a[:6], 1 - 2 * o] for a, e, o in zip(action, ends, opens, strict=True)]
    elif name == 'taco_play':
        world = [a['rel_actions_world'] for a in action]
        rows = [[e, *a[:6], -a[6]] for a, e in zip(world, ends, strict=True)]
    elif name.startswith('stanford'):
        rows = [[e, *a[:6], 2 * a[6] - 1] for a, e in zip(action, ends, strict=True)]
    else:
        rows = action
    return kept, np.asarray(rows, np.float32)[list(kept)]


def write_dataset(directory, name, episodes, shards=2, spec=None):
    """Episodes (nested dicts) as a data set, by the project's own writer."""
    directory.mkdir(parents=True, exist_ok=True)
    spec = spec or features(name)
    encode = rlds_writer.EpisodeEncoder(spec)
    parts = np.array_split(np.arange(len(episodes)), shards)
    for shard, inside in enumerate(parts):
        rlds_writer.write_shard(
            directory / rlds_writer.shard_name(name, 'train', shard, shards),
            (encode(episodes[i]) for i in inside),
        )
    finish(directory, name, [len(part) for part in parts], spec)
    return directory


def finish(directory, name, lengths, spec=None):
    spec = spec or features(name)
    rlds_writer.finish(
        directory, spec, name=name, version='0.1.0', description='', shard_lengths=lengths
    )


def step_feature(step, path):
    """A step's feature by its path; names of features may have slashes themselves."""
    if path in step:
        return step[path]
    head, _, rest = path.partition('/')
    return step_feature(step[head], rest)


def seen(name, path, picture):
    """What a policy sees of a picture that was written: its pixels as JPEG keeps them, in RGB."""
    stored = images.decode(images.encode_jpeg(picture))
    return stored[..., ::-1] if path in BLUE_FIRST.get(name, ()) else stored


def raw_action(card, step):
    """A step's action as the data hold it, in the order of the card's dimensions: float64 [D]."""
    parts = [np.ravel(step_feature(step, p.path))[p.start : p.stop] for p in card.action]
    return np.concatenate(parts).astype(np.float64)


def card(name):
    return cards.find(name)
