"""Each card, on files in its data set's true schema: data -> tokens -> action -> robot command."""

import dataclasses
import json
import math

import numpy as np
import open_x
import pytest

from rt2_jax.data import cards, robot_card
from rt2_jax.data.data_errors import CardError, DataSetError
from rt2_jax.data.readers import rlds_schema
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

TOKENIZER = Tokenizer.load_default()


@pytest.fixture(scope='module', params=open_x.NAMES)
def opened(request, tmp_path_factory):
    """(name, episodes, source) of each data set."""
    name = request.param
    episodes = [open_x.make_episode(name, n) for n in range(3)]
    directory = open_x.write_dataset(tmp_path_factory.mktemp('open_x') / name, name, episodes)
    return name, episodes, rlds.open_source(directory, name)


def test_every_step_is_read_back(opened):
    name, episodes, source = opened
    i = 0
    for number, episode in enumerate(episodes):
        kept, actions = open_x.expected(name, episode['steps'])
        for t, action in zip(kept, actions, strict=True):
            step, example, raw = episode['steps'][t], source[i], source.table.raw(i)
            np.testing.assert_array_equal(example.action, action)
            assert example.prompt == prompts.robot(f'schiebe Würfel {number} nach ←')
            path = source.index.card.images[0]
            picture = open_x.seen(name, path, open_x.step_feature(step, path))
            np.testing.assert_array_equal(example.frames[0], picture)
            for path in source.index.card.columns:
                np.testing.assert_array_equal(raw[path], open_x.step_feature(step, path))
            i += 1
    assert i == len(source)


def with_settings(source, **settings):
    return StepSource(source.index, dataclasses.replace(source.settings, **settings))


def test_every_camera(opened):
    name, episodes, source = opened
    first = 1 if name.startswith('bridge') else 0
    for camera, path in enumerate(source.index.card.images):
        picture = open_x.step_feature(episodes[0]['steps'][first], path)
        other = with_settings(source, camera=camera)
        np.testing.assert_array_equal(other.frames(0)[0], open_x.seen(name, path, picture))
    with pytest.raises(ValueError, match=f'camera {camera + 1} of card'):
        with_settings(source, camera=camera + 1)


def test_success(opened):
    name, _, source = opened
    known = name in ('fractal20220817_data', 'kuka')
    assert source.index.arrays['episode_success'].tolist() == ([1, 0, 1] if known else [-1] * 3)


@pytest.mark.parametrize('bounds', ['card', 'rt1'])
def test_data_to_tokens_to_action_to_command(opened, bounds):
    """What a policy that learnt the data by heart would send the robot is what the data hold."""
    name, episodes, source = opened
    source = with_settings(source, bounds=bounds)
    space, card = source.action_space, source.index.card
    codec = ActionTokenizer(space, TOKENIZER)
    half_bin = dict(zip(space.names, space.bin_widths / 2 * (1 + 1e-5) + 1e-7, strict=True))
    i = 0
    for episode in episodes:
        for t in open_x.expected(name, episode['steps'])[0]:
            command = card.to_command(codec.decode(codec.encode(source.table.action(i))))
            tolerances = [half_bin[n] for n in space.names]
            for part in card.action:
                data = np.ravel(open_x.step_feature(episode['steps'][t], part.path))
                width = part.stop - part.start
                sent, command[part.path] = np.split(command[part.path], [width])
                allowed, tolerances = tolerances[:width], tolerances[width:]
                error = np.abs(sent - data[part.start : part.stop].astype(float))
                if part is card.action[-1] and card.gripper:
                    check_gripper(card.gripper, sent[-1], float(data[-1]))
                    error, allowed = error[:-1], allowed[:-1]
                assert (error <= allowed).all(), (part.path, error, allowed)
            if card.terminate:
                data = np.ravel(open_x.step_feature(episode['steps'][t], card.terminate))
                np.testing.assert_array_equal(command[card.terminate], data)
            i += 1


def check_gripper(gripper, sent, data):
    if gripper.binary and data in (gripper.closed, gripper.open):
        assert sent == data
    elif gripper.binary:
        assert sent in (gripper.closed, gripper.open)
    else:
        # The grid about zero keeps "hold" exact, and a bin of 1/127.5 the rest.
        assert sent == data if data == 0 else abs(sent - data) < 1 / 127


def test_a_gripper_on_its_way_counts_as_arrived():
    gripper = cards.BRIDGE_DATASET.gripper
    opens = [1, 0.97, 0.6, 0.2, 0.04, 0, 0.3, 0.8, 1, 0.7]
    assert gripper.to_action(np.array(opens)).tolist() == [-1, -1, 1, 1, 1, 1, -1, -1, -1, -1]
    # Nothing follows: the last value counts.
    assert gripper.to_action(np.array([0.4, 0.6])).tolist() == [-1, -1]


def test_an_unlabelled_null_step_is_no_example_and_others_are():
    card = cards.BRIDGE
    action = np.zeros([3, 8], np.float32)
    action[:, 7] = -1
    assert card.examples(action) == slice(1, 3)
    action[0, 1] = 0.01
    assert card.examples(action) == slice(0, 3)
    invalid = dataclasses.replace(card, last_step_action=False)
    assert invalid.examples(action) == slice(0, 2)
    assert invalid.examples(action[:0]) == slice(0, 0)


def test_a_card_that_contradicts_itself():
    card = cards.FRACTAL
    with pytest.raises(ValueError, match="did you mean 'argmax'"):
        dataclasses.replace(card, terminate_rule='argmx')
    with pytest.raises(ValueError, match='6 dimensions, its action space has 7'):
        dataclasses.replace(card, action=card.action[:2])
    with pytest.raises(ValueError, match='lacks a gripper'):
        dataclasses.replace(card, gripper=None)
    with pytest.raises(ValueError, match='has a terminate path'):
        dataclasses.replace(card, terminate_rule='last_step')
    with pytest.raises(ValueError, match="blue_first .*did you mean 'observation/image'"):
        dataclasses.replace(card, blue_first=('observation/imag',))
    with pytest.raises(ValueError, match="did you mean 'relative'"):
        robot_card.Gripper('relativ', closed=1, open=0)
    with pytest.raises(ValueError, match="did you mean 'language_table_sim'"):
        cards.find('language_table_sm')


@pytest.mark.parametrize(
    ('changed', 'message'),
    [
        ({'name': '..'}, 'its name may have'),
        ({'images': ['a', 'a']}, "field images: 'a' is there twice"),
        ({'frequency': 0}, 'field frequency: it is 0'),
        ({'frequency': math.nan}, 'field frequency: it is nan'),
        ({'action': [{'path': 'a', 'start': -7, 'stop': 0}]}, r'action\[0\].*start is 0 or more'),
        (
            {
                'action': [
                    {'path': 'a', 'start': 0, 'stop': 4},
                    {'path': 'a', 'start': 3, 'stop': 6},
                ]
            },
            "field action: entry 3 of 'a' is taken twice",
        ),
        ({'gripper': {'kind': 'absolute', 'closed': math.inf, 'open': 0.0}}, 'must be finite'),
        ({'space': {'low': '0000000'}}, 'action_space: low must be a list of numbers'),
        ({'space': {'low': None}}, 'action_space: low must be a list of numbers'),
        ({'space': {'names': [1, 2, 3, 4, 5, 6, 'gripper']}}, 'names must be a list of texts'),
        ({'space': {'names': ['x', 'x', *'zabc', 'gripper']}}, "two numbers are called 'x'"),
        ({'space': {'names': ['', *'yzabc', 'gripper']}}, r'names\[0\] is empty'),
        (
            {'space': {'names': list('xyzabcg')}},
            "call its dimension 'gripper' in action_space.names",
        ),
        ({'space': {'units': [1] * 7}}, 'units must be a list of texts'),
        ({'space': {'bins': '256'}}, "bins must be a whole number, not '256'"),
        ({'space': {'bins': 21.5}}, 'bins must be a whole number, not 21.5'),
        ({'space': {'bins': 2}}, 'a gripper needs at least 3'),
    ],
)
def test_a_card_edited_by_hand_is_refused_with_its_file_and_field(tmp_path, changed, message):
    fields = json.loads(json.dumps(dataclasses.asdict(cards.FRACTAL)))
    fields['action_space'] |= changed.pop('space', {})
    (tmp_path / 'card.json').write_text(json.dumps(fields | changed))
    with pytest.raises(CardError, match=f'card.json: .*{message}'):
        cards.find(str(tmp_path / 'card.json'))


def test_a_field_that_is_there_twice(tmp_path):
    text = json.dumps(dataclasses.asdict(cards.FRACTAL))
    (tmp_path / 'card.json').write_text(f'{text[:-1]}, "frequency": 7}}')
    with pytest.raises(CardError, match="card.json: the field 'frequency' is there twice"):
        cards.find(str(tmp_path / 'card.json'))


@pytest.mark.parametrize(
    ('rule', 'shape', 'fits'),
    [('argmax', (3,), True), ('argmax', (), False), ('flag', (1,), True), ('flag', (3,), False)],
)
def test_a_terminate_rule_that_would_misread_its_feature(rule, shape, fits):
    card = dataclasses.replace(cards.FRACTAL, terminate_rule=rule)
    number = rlds_schema.Field((7,), 'float32')
    schema = {rlds_schema.full_path(part.path): number for part in card.action}
    schema |= {
        rlds_schema.full_path(card.images[0]): rlds_schema.Field((2, 2, 3), 'picture'),
        rlds_schema.full_path(card.instruction): rlds_schema.Field((), 'text'),
        rlds_schema.full_path(card.terminate): rlds_schema.Field(shape, 'int32'),
        'aspects/success': rlds_schema.Field((), 'bool'),
    }
    if fits:
        return rlds_schema.check_card(schema, card, 'set')
    with pytest.raises(DataSetError, match=f"terminate .*the rule '{rule}' needs"):
        rlds_schema.check_card(schema, card, 'set')


def test_a_state_in_place_of_a_command_is_that_of_the_next_step():
    action = (
        robot_card.ActionPart('move', 0, 6),
        robot_card.ActionPart('state', 0, 1, following=True),
    )
    card = dataclasses.replace(cards.TABLETOP, action=action)
    features = {
        'move': np.zeros([3, 6]),
        'state': np.array([-1.0, 1.0, 1.0]),
        'action/terminate_episode': np.array([0, 0, 1]),
    }
    assert card.to_action(features)[:, 7].tolist() == [1, 1, 1]
    features['state'] = np.array([1.0, 1.0, -1.0])
    assert card.to_action(features)[:, 7].tolist() == [1, -1, -1]


def test_a_command_has_the_order_of_the_data():
    parts = [(3, 6), (0, 3), (6, 7)]
    action = tuple(robot_card.ActionPart('action', start, stop) for start, stop in parts)
    card = dataclasses.replace(cards.BRIDGE_DATASET, action=action)
    command = card.to_command(np.array([0, 1, 2, 3, 4, 5, 6, -1]))
    assert command['action'].tolist() == [4, 5, 6, 1, 2, 3, 1]


def test_indexes_from_before_a_field_stay_valid():
    assert cards.FRACTAL.fingerprint == '2659848fba9ca6be'
    assert dataclasses.replace(cards.FRACTAL, columns=('is_first',)).fingerprint != (
        cards.FRACTAL.fingerprint
    )
    turned = dataclasses.replace(cards.FRACTAL, blue_first=cards.FRACTAL.images)
    later = dataclasses.replace(cards.FRACTAL.action[0], following=True)
    shifted = dataclasses.replace(cards.FRACTAL, action=(later, *cards.FRACTAL.action[1:]))
    assert len({cards.FRACTAL.fingerprint, turned.fingerprint, shifted.fingerprint}) == 3


@pytest.mark.parametrize('card', cards.CARDS.values(), ids=lambda card: card.name)
def test_cards_come_back_from_json(card):
    fields = json.loads(json.dumps(dataclasses.asdict(card)))
    assert robot_card.RobotCard.from_json(json.dumps(fields)) == card
    with pytest.raises(ValueError, match="'griper'; did you mean 'gripper'"):
        robot_card.RobotCard.from_json(fields | {'griper': None})
    with pytest.raises(ValueError, match=f'{card.name}.*frame'):
        robot_card.RobotCard.from_json({k: v for k, v in fields.items() if k != 'frame'})
