"""Does the action follow the words, on recorded frames in real TFRecords."""

import json
import types

import drawn_episodes
import numpy as np
import pytest

pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")

from rt2_jax.data import cards
from rt2_jax.data.robot import rlds, rlds_writer
from rt2_jax.envs.tabletop import collect, schema
from rt2_jax.envs.tabletop.env import TabletopEnv
from rt2_jax.evaluation import result_lines, swapped_instructions as swapped
from rt2_jax.policy import Policy
from rt2_jax.text.actions import ActionSpace, ActionTokenizer

EPISODES, SIZE = 8, 32


@pytest.fixture(scope='module')
def episodes(tmp_path_factory):
    """A directory of episodes as collection writes them."""
    directory = tmp_path_factory.mktemp('episodes')
    features = schema.features(SIZE)
    encode = rlds_writer.EpisodeEncoder(features)
    settings = collect.Settings(episodes=EPISODES, image_size=SIZE)
    env = TabletopEnv('train', image_size=SIZE, render_mode=None)
    played = [encode(collect.play(env, settings, number)) for number in range(EPISODES)]
    env.close()
    shard = rlds_writer.shard_name(schema.NAME, 'train', 0, 1)
    rlds_writer.write_shard(directory / shard, played)
    about = dict(name=schema.NAME, version=schema.VERSION, description=schema.DESCRIPTION)
    rlds_writer.finish(directory, features, shard_lengths=[EPISODES], **about)
    return directory


class Stub:
    """A policy that goes where `across` says, by the frame's place and its instruction, with noise."""

    frames = frame_stride = 1
    cameras = ()
    embodiment = cards.TABLETOP
    settings = types.SimpleNamespace(state_space=None)

    def __init__(self, tokenizer, across):
        self.action_tokenizer = ActionTokenizer(ActionSpace.rt1_bounds(), tokenizer)
        self._across = across

    def act_batch(self, images, instructions, states=None, temperature=0.0, seed=0):
        rng = np.random.default_rng(seed)
        actions = []
        for place, text in enumerate(instructions):
            dx, dy = np.array(self._across(place, text)) + temperature * rng.normal(0, 0.01, 2)
            action = np.array([0, dx, dy, 0, 0, 0, 0, -1], np.float32)
            actions.append(types.SimpleNamespace(action=action))
        return actions


def test_other_instructions_fit_the_scene(episodes):
    source = rlds.open_source(episodes, 'tabletop')
    swaps = swapped.choose(source, EPISODES)
    assert sorted(swap.step for swap in swaps) == [
        source.table.episode_steps(i)[0] for i in range(EPISODES)
    ]
    for swap in swaps:
        raw = source.table.raw(swap.step)
        names = raw['observation/object_names'].split('\n')
        assert swap.own == raw['instruction'] and swap.other != swap.own
        assert swap.own.split()[0] == swap.other.split()[0]
        own, other = names[swap.scene.own], names[swap.scene.other]
        assert own != other and f' {own}' in swap.own and f' {other}' in swap.other
        if swap.own.startswith('push'):
            x, y = swap.other.removeprefix('push ').split(' to ')
            assert x == other and y in names and y != x
    steps = lambda: [(swap.step, swap.other) for swap in swapped.choose(source, 3)]
    assert steps() == steps()
    assert len(swapped.choose(source, 99, first=5)) == 3
    with pytest.raises(ValueError, match='left out'):
        swapped.choose(source, 3, first=EPISODES)


def test_actions_point_to_tiles():
    env = TabletopEnv('seen', image_size=16, render_mode=None)
    for seed in range(20):
        _, info = env.reset(seed=seed)
        places = info['object_xyz'][:, :2] - info['gripper_xyz'][:2]
        scene = swapped.Scene(
            info['gripper_xyz'], info['gripper_pixel'], info['object_pixels'], 0, 1
        )
        rng = np.random.default_rng(seed)
        for tile, place in enumerate(places):
            assert scene.pointed_at(place + rng.uniform(-0.03, 0.03, 2)) == tile
    env.close()


def test_who_follows_the_words_and_who_does_not(episodes, tokenizer):
    source = rlds.open_source(episodes, 'tabletop')
    swaps = swapped.choose(source, EPISODES)
    ways = {}
    for place, swap in enumerate(swaps):
        usual = swapped.Camera()
        goals = np.stack(np.meshgrid(np.linspace(-0.4, 0.4, 81), np.linspace(-0.4, 0.4, 81)), -1)
        goals = goals.reshape(-1, 2)
        for text, tile in ((swap.own, swap.scene.own), (swap.other, swap.scene.other)):
            points = np.concatenate(
                [swap.scene.gripper[:2] + goals, np.full([len(goals), 1], 0.04)], 1
            )
            far = np.linalg.norm(usual.project(points) - swap.scene.pixels[tile], axis=1)
            ways[place, text] = goals[far.argmin()]
    follows = swapped.measure(Stub(tokenizer, lambda *asked: ways[asked]), episodes, EPISODES)
    assert follows['frames'] == follows['scenes'] == EPISODES
    assert follows['change']['ratio'] > 3 and follows['change']['interval'][0] > 2
    assert follows['points']['own']['share'] == follows['points']['swapped']['share'] == 1
    assert follows['points']['stays']['count'] == 0
    assert follows['numbers']['dx']['likeliest'] > 0.01 and follows['numbers']['drz']['noise'] == 0
    deaf = swapped.measure(Stub(tokenizer, lambda *asked: (0.05, 0.0)), episodes, EPISODES)
    assert 0.5 < deaf['change']['ratio'] < 2
    assert deaf['points']['swapped']['count'] + deaf['points']['stays']['count'] <= EPISODES
    assert 'times as much' in result_lines.describe('swap', {'swap': deaf})
    still = Stub(tokenizer, lambda *asked: (0.0, 0.0))
    still.act_batch = lambda *args, **settings: Stub.act_batch(still, *args)
    figures = swapped.measure(still, episodes, EPISODES)
    assert figures['change'] == {'swapped': 0, 'noise': 0, 'ratio': None, 'interval': None}
    assert result_lines.describe('swap', {'swap': figures})


def test_data_that_do_not_say_what_lies_where(tiny_checkpoint, tmp_path):
    """A real model on frames whose tiles have no places: instructions of other episodes."""
    directory = drawn_episodes.write_dataset(tmp_path / 'episodes', episodes=9)
    policy = Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(8,))
    figures = swapped.measure(policy, directory, 6)
    assert figures['frames'] == 6 and figures['scenes'] == 0 and figures['points'] is None
    assert figures['change']['noise'] > 0 and figures['change']['ratio'] > 0
    assert list(figures['numbers']) == ['dx', 'dy', 'dz', 'drx', 'dry', 'drz', 'gripper']
    for own, other in figures['examples']:
        assert own != other and own.startswith('pick thing') and other.startswith('pick thing')
    assert json.loads(json.dumps(figures)) == figures
    assert swapped.measure(policy, directory, 6) == figures
    with pytest.raises(ValueError, match='one instruction'):
        source = rlds.open_source(drawn_episodes.write_dataset(tmp_path / 'one', 1, 1), 'tabletop')
        swapped.choose(source, 1)
