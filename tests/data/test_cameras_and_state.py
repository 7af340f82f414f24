"""Several cameras and the robot's state: which are read, in what order, and what is refused."""

import dataclasses

import lerobot_files
import numpy as np
import open_x
import open_x_sets
import pytest

from rt2_jax import configuration
from rt2_jax.data import cards, convert_episodes, history, images, inspect, pipeline, sources, views
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.data_errors import CardError, DataSetError
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.grid import Grid

LIBERO = 'libero_goal_no_noops'
CAMERAS = ('image', 'wrist_image')


def write_libero(directory, episodes=12):
    """LIBERO's schema as OpenVLA publishes it; pictures of 16 pixels, three steps an episode."""
    a_set = open_x_sets.libero()
    made = [open_x_sets.make_episode(a_set, number) for number in range(episodes)]
    return open_x.write_dataset(directory, LIBERO, made, spec=a_set.features()), made


@pytest.fixture(scope='module')
def libero(tmp_path_factory):
    """(the folder of a data set, its steps)."""
    directory, made = write_libero(tmp_path_factory.mktemp('libero') / LIBERO)
    return directory, [step for episode in made for step in episode['steps']]


def stored(step, camera):
    return images.decode(images.encode_jpeg(step['observation'][camera]))


def test_a_frame_is_a_picture_of_each_camera_in_the_configs_order(libero):
    directory, steps = libero
    for cameras in (CAMERAS, CAMERAS[::-1], ('observation/wrist_image',)):
        source = rlds.open_source(directory, LIBERO, cameras=cameras)
        expected = [stored(steps[4], name.rpartition('/')[2]) for name in cameras]
        np.testing.assert_array_equal(source[4].frames, expected)


def test_of_a_history_the_oldest_frame_comes_first(libero):
    directory, steps = libero
    source = rlds.open_source(directory, LIBERO, cameras=CAMERAS, frames=2, frame_stride=2)
    expected = [stored(steps[i], camera) for i in (3, 5) for camera in CAMERAS]
    np.testing.assert_array_equal(source[5].frames, expected)
    acting = history.History(frames=2, stride=2)
    for i in (3, 4, 5):
        seen = acting.add(np.stack([stored(steps[i], camera) for camera in CAMERAS]))
    np.testing.assert_array_equal(seen, expected)


def test_a_state_is_written_as_integers_of_the_datas_quantiles(libero):
    directory, steps = libero
    source = rlds.open_source(directory, LIBERO, state='q01-q99')
    states = np.stack([step['observation']['state'] for step in steps])
    space = source.state_space
    np.testing.assert_allclose(space.low, np.quantile(states, 0.01, axis=0), rtol=1e-5)
    np.testing.assert_allclose(space.high, np.quantile(states, 0.99, axis=0), rtol=1e-5)
    written = [int(x) for x in source[7].prompt.partition('.')[0].removeprefix('State: ').split()]
    assert len(written) == 8 and source[7].prompt.endswith('A:')
    back = space.centres[np.arange(8), written]
    inside = np.clip(states[7], space.low, space.high)
    assert (abs(back - inside) <= space.bin_widths / 2 + 1e-6).all()
    np.testing.assert_array_equal(source.state(7), states[7])


def test_what_lies_outside_of_the_range_is_clipped_and_counted():
    grid = Grid(
        ActionSpace((0.0, -1.0), (1.0, 1.0), ('a', 'b'), ('1', '1'), terminate=False), 'state'
    )
    assert [grid.text(x) for x in ([0.5, 0], [2, -9], [0, 1])] == ['128 128', '255 1', '0 255']
    assert grid.clipped.tolist() == [1, 1] and grid.encoded == 3
    with pytest.raises(ValueError, match=r'A state has 2 numbers \(a, b\), got shape \[3\]'):
        grid.text([0, 0, 0])
    with pytest.raises(ValueError, match="A state has nan for 'b'"):
        grid.text([0, np.nan])


def test_lerobot_has_them_too(tmp_path):
    directory = lerobot_files.write(tmp_path / 'arm')
    card = dataclasses.replace(
        lerobot_files.CARD,
        columns=(),
        state=(lerobot_files.ActionPart('observation.state', 2, 5),),
        state_space=ActionSpace(
            (-1.0,) * 3, (1.0,) * 3, ('x', 'y', 'z'), ('m',) * 3, terminate=False
        ),
    )
    assert card.cameras == ('front', 'wrist')
    source = rlds.open_source(directory, card, cameras=('wrist', 'front'), state='card')
    both = source[3].frames
    for camera, name in enumerate(card.cameras):
        alone = rlds.open_source(directory, card, cameras=(name,), state='card')[3].frames
        np.testing.assert_array_equal(both[1 - camera], alone[0])
    state = lerobot_files.numbers(0, lerobot_files.LENGTHS[0])['observation.state'][3, 2:5]
    assert source[3].prompt == prompts.with_state(
        prompts.robot('pick the cube'), Grid(card.state_space).text(state)
    )


def test_a_converted_set_keeps_its_state(tmp_path):
    state = (lerobot_files.ActionPart('observation.state', 2, 5),)
    card = dataclasses.replace(lerobot_files.CARD, columns=(), state=state)
    arm = lerobot_files.write(tmp_path / 'arm')
    shown, folder = rlds.open_source(arm, card, state='q01-q99'), arm
    for form in ('rlds', 'lerobot'):
        output = tmp_path / form
        convert_episodes.convert(folder, card, form, output, processes=1)
        folder, card = output, cards.find(str(output / 'card.json'))
        again = rlds.open_source(folder, card, state='q01-q99')
        assert [again[i].prompt for i in range(5)] == [shown[i].prompt for i in range(5)]


def test_cameras_of_other_sizes_are_shown_in_that_of_the_first():
    rng = np.random.default_rng(0)
    large, small = rng.integers(0, 256, (1, 24, 32, 3), np.uint8), np.zeros([1, 8, 8, 3], np.uint8)
    assert views.interleave([large, small]).shape == (2, 24, 32, 3)
    np.testing.assert_array_equal(views.interleave([large, small])[0], large[0])
    by_name = views.observed({'b': small[0], 'a': large[0]}, ('a', 'b'))
    np.testing.assert_array_equal(by_name, views.interleave([large, small]))


def config_of(directory, **data):
    """A config of this set and of the small web."""
    config = configuration.defaults()
    config.data.update(image_size=32, prompt_length=64, **data)
    config.data.robot.arm = dict(directory=str(directory), card=LIBERO, weight=1.0)
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    return config


def batch_of(config, tokenizer):
    data = DataConfig.from_config(config.data)
    opened = sources.open_sources(data)
    batches = pipeline.make_iterator(opened, tokenizer, data, batches=1, batch_size=8)
    with_names = [batches.sources[i] for i in next(batches)['source'].tolist()]
    batches.close()
    again = pipeline.make_iterator(opened, tokenizer, data, batches=1, batch_size=8)
    batch = {name: np.asarray(value) for name, value in next(again).items()}
    again.close()
    return batch, with_names


def test_a_batch_holds_all_pictures_and_a_still_of_the_web_fills_them(libero, tokenizer):
    config = config_of(libero[0], frames=2, cameras=CAMERAS, state='q01-q99')
    batch, names = batch_of(config, tokenizer)
    assert batch['images'].shape == (8, 4, 32, 32, 3) and {'arm', 'web'} == set(names)
    for pictures, prompt, name in zip(batch['images'], batch['prompt'], names, strict=True):
        text = tokenizer.decode(prompt[prompt != 0].tolist())
        assert text.startswith('State: ') == (name == 'arm')
        assert (pictures == pictures[0]).all() == (name == 'web')


def test_a_config_calls_a_cards_cameras_by_names_of_its_own(libero, tokenizer):
    config = config_of(libero[0], cameras=('outside', 'hand'))
    config.data.robot.arm.cameras = ('wrist_image', 'image')
    batch, _ = batch_of(config, tokenizer)
    assert batch['images'].shape[1] == 2


def test_the_config_of_libero_reads_all_four_suites(libero, tokenizer, tmp_path):
    for suite in ('spatial', 'object', 'goal', '10'):
        write_libero(tmp_path / f'libero_{suite}_no_noops' / '1.0.0', episodes=2)
    config = configuration.load('configs/libero.py', f't5gemma2-270m,{tmp_path}').unlock()
    config.data.image_size = 32
    for robot in config.data.robot.values():
        robot.holdout = 1  # a fiftieth of two episodes is none
    batch, names = batch_of(config, tokenizer)
    assert batch['images'].shape == (8, 2, 32, 32, 3)
    assert 'web' in names and len(config.data.robot) == 4
    one = configuration.load('configs/libero.py', f'paligemma-3b,{libero[0]},{LIBERO}')
    assert one.embodiment == LIBERO and one.model.name == 'decoder_only'
    assert DataConfig.from_config(one.data).robot['libero'].cameras == CAMERAS
    with pytest.raises(ValueError, match="did you mean '270m'"):
        configuration.load('configs/libero.py', 't5gemma2-270')


WRONG = {
    'camera': (dict(cameras=('image', 'wrist')), "mean 'wrist_image'. Valid: image, wrist_image"),
    'twice': (dict(cameras=('image', 'image')), 'names a camera twice'),
    'text': (dict(cameras='image'), "names are needed: \\('image', 'wrist_image'\\)"),
    'state': (dict(state='q01_q99'), "config.data.state 'q01_q99'; did you mean 'q01-q99'"),
    'ranges': (dict(state='card'), 'has no `state_space` with the ranges'),
    'length': (dict(state='q01-q99', prompt_length=20), "a prompt of \\d+ tokens doesn't fit"),
    'frames': (dict(cameras=CAMERAS, frames=2, action_frames='all'), 'an action for each frame'),
}  # fmt: skip


@pytest.mark.parametrize('name', WRONG)
def test_what_cannot_be_is_said(libero, tokenizer, name):
    settings, says = WRONG[name]
    config = config_of(libero[0])
    with config.data.unlocked() as data, data.ignore_type():
        data.update(settings)
    with pytest.raises(ValueError, match=says):
        batch_of(config, tokenizer)


def test_a_set_shows_as_many_cameras_as_the_config(libero):
    config = config_of(libero[0], cameras=CAMERAS)
    config.data.robot.arm.cameras = ('image',)
    with pytest.raises(ValueError, match=r"arm.cameras=\('image',\), but config.data.cameras="):
        DataConfig.from_config(config.data)
    config.data.robot.arm.update(cameras=CAMERAS, camera=1)
    with pytest.raises(ValueError, match='set one of them'):
        DataConfig.from_config(config.data)
    config.data.robot.arm = dict(directory='x', card=LIBERO, weight=1.0, camera=0, camras=CAMERAS)
    with pytest.raises(ValueError, match="arm.camras: .* did you mean 'cameras'"):
        DataConfig.from_config(config.data)


def test_a_card_says_what_its_state_is(libero):
    card = dataclasses.asdict(cards.find(LIBERO))
    assert RobotCard.from_json(card) == cards.find(LIBERO)
    with pytest.raises(CardError, match=r"state\[0\]: unknown field 'pth'; did you mean 'path'"):
        RobotCard.from_json(card | {'state': [{'pth': 'observation/state', 'start': 0, 'stop': 8}]})
    space = {'low': [0], 'high': [1], 'names': ['a'], 'units': ['1'], 'bins': 256}
    with pytest.raises(CardError, match='its state has 8 numbers, its state space 1'):
        RobotCard.from_json(card | {'state_space': space})
    own = dataclasses.replace(cards.find(LIBERO), state=())
    with pytest.raises(DataSetError, match='names no features of a state'):
        rlds.open_source(libero[0], own, state='q01-q99')
    wide = dataclasses.replace(
        own, state=(dataclasses.replace(own.action[0], path='observation/state', stop=9),)
    )
    with pytest.raises(
        DataSetError, match="takes numbers 0 to 8 of 'observation/state', which has 8"
    ):
        rlds.open_source(libero[0], wide, state='q01-q99')


def test_a_number_that_is_none_is_refused(tmp_path):
    a_set = open_x_sets.libero()
    made = [open_x_sets.make_episode(a_set, number) for number in range(2)]
    made[1]['steps'][2]['observation']['state'][5] = np.nan
    open_x.write_dataset(tmp_path / LIBERO, LIBERO, made, spec=a_set.features())
    rlds.open_source(tmp_path / LIBERO, LIBERO)
    with pytest.raises(
        DataSetError, match="step 2 of episode 1 has nan for 'state_5' of its state"
    ):
        rlds.open_source(tmp_path / LIBERO, LIBERO, state='q01-q99')


# As they were before cards had a state; indexes and positions in data rest on them.
FINGERPRINTS = {
    LIBERO: '45fc5f8d98aa1360',
    'droid': 'e118e7b46b6f3525',
    'bridge_dataset': '57d6f04d0f5f34fe',
    'tabletop': 'fee878837d9eed6b',
}


def test_metaworld_by_one_camera_has_the_index_that_it_had():
    card = cards.find('metaworld')
    then = dataclasses.replace(card, images=card.images[:1], columns=('observation/state',))
    assert then.without_state().fingerprint == '467492e02b98e695'


@pytest.mark.parametrize('name', FINGERPRINTS)
def test_without_its_state_a_set_has_the_index_that_it_had(name):
    assert cards.find(name).without_state().fingerprint == FINGERPRINTS[name]


def test_inspect_reports_the_state(libero, tmp_path):
    pytest.importorskip('matplotlib', reason="charts need pip install 'rt2_jax[look]'")
    report = inspect.inspect(libero[0], tmp_path, card=LIBERO)
    assert list(report['state']) == [f'state_{i}' for i in range(8)]
    assert 0 < report['state']['state_0']['q01-q99']['clipped'] < 0.2
    assert len(report['examples'][0]['state']) == 8
    assert 'state_7' in inspect.as_text(report)
