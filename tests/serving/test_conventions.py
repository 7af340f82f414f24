"""Data -> index -> tokens -> what a client gets by either protocol: the data's own actions again."""

import contextlib
import json
import pathlib
import re

import numpy as np
import open_x
import pytest
import requests
from running import deciding
from websockets.exceptions import InvalidStatus

from rt2_jax.data import cards
from rt2_jax.data.robot import rlds
from rt2_jax.decoding.sampler import Samples
from rt2_jax.evaluation import remote_policy
from rt2_jax.policy import Policy
from rt2_jax.policy.answers import Answer, decode_answer
from rt2_jax.policy.conventions import CONVENTIONS, Convention, to_internal
from rt2_jax.policy.robot import Robot
from rt2_jax.serving import codec
from rt2_jax.serving.service import Settings

PICTURE = np.zeros([8, 8, 3], np.uint8)
# Absolute and binary, relative, and without gripper or flag.
JOURNEYS = ('bridge_dataset', 'fractal20220817_data', 'language_table')
README = pathlib.Path(rlds.__file__).parents[2] / 'serving/README.md'


@pytest.fixture(scope='module', params=JOURNEYS)
def journey(request, tmp_path_factory, tiny):
    """(card, the data's own actions by step, their tokens, a policy of the data's action space)."""
    name = request.param
    episodes = [open_x.make_episode(name, n) for n in range(3)]
    directory = open_x.write_dataset(tmp_path_factory.mktemp('data') / name, name, episodes)
    source = rlds.open_source(directory, name)
    card = source.index.card
    raw = []
    for episode in episodes:
        for t in open_x.expected(name, episode['steps'])[0]:
            raw.append(open_x.raw_action(card, episode['steps'][t]))
    policy = Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, source.action_space, embodiment=card
    )
    policy.source = name
    tokens = [policy.action_tokenizer.encode(source.table.action(i)) for i in range(len(source))]
    return card, raw, tokens, policy


@contextlib.contextmanager
def emitting(policy, tokens, **settings):
    """A server of a policy that decides these tokens, one action a request."""
    zeros = np.zeros(policy.action_tokenizer.length, np.float32)
    samples = [Samples(ids, zeros, zeros, len(ids)) for ids in tokens]
    with deciding(
        policy,
        [decode_answer(sample, policy.action_tokenizer, policy.tokenizer) for sample in samples],
        **settings,
    ) as server:
        yield server


def by_act(server, query=''):
    message = codec.dumps({'image': PICTURE, 'instruction': 'pick banana'})
    reply = requests.post(f'{server.http}/act{query}', message, timeout=20)
    assert reply.ok, reply.text
    return codec.loads(reply.text)


def check(card, space, sent, raw):
    """Within half a bin of the data, the gripper included."""
    half = space.bin_widths / 2 * (1 + 1e-5) + 1e-7
    if card.gripper and card.gripper.binary:
        # Continuous in the data, and made open or closed on the way in.
        assert set(sent[:, -1]) <= {card.gripper.open, card.gripper.closed}
        ends = np.isin(raw[:, -1], [card.gripper.open, card.gripper.closed])
        assert ends.any() and (sent[ends, -1] == raw[ends, -1]).all()
        sent, raw, half = sent[:, :-1], raw[:, :-1], half[:-1]
    assert (np.abs(sent - raw) <= half).all()


def assert_same(card, found, wanted):
    """The same decisions; a binary gripper comes back as the end that it is sent to."""
    exact = slice(None, -1 if card.gripper and card.gripper.binary else None)
    np.testing.assert_allclose(found[:, exact], wanted[:, exact], atol=1e-6)
    np.testing.assert_allclose(found, wanted, atol=0.004)


def test_both_protocols_send_the_datas_own_actions(journey):
    card, raw, tokens, policy = journey
    with emitting(policy, [*tokens, *tokens]) as server:
        posted = np.stack([by_act(server) for _ in tokens])
        with server.robot() as robot:
            answers = [robot.infer(PICTURE)['actions'][0] for _ in tokens]
    assert posted.dtype == np.float64 and answers[0].dtype == np.float32
    check(card, policy.action_tokenizer.space, posted, np.stack(raw))
    np.testing.assert_array_equal(np.stack(answers), posted.astype(np.float32))


def test_metadata_say_whose_numbers_they_are(journey):
    card, _, tokens, policy = journey
    decisions = policy.action_tokenizer.decode(np.stack(tokens))
    for name in CONVENTIONS:
        with emitting(policy, tokens) as server:
            with server.robot(query=f'?convention={name}') as robot:
                found, metadata = (
                    [robot.infer(PICTURE)['actions'][0] for _ in tokens],
                    robot.metadata,
                )
            assert metadata == requests.get(f'{server.http}/?convention={name}', timeout=5).json()
        assert metadata['convention'] == name and set(metadata['conventions']) == set(CONVENTIONS)
        low, high = np.array([metadata['action_low'], metadata['action_high']]) + [[-1e-6], [1e-6]]
        assert ((low <= found) & (found <= high)).all()
        again = np.stack([to_internal(values, metadata) for values in found])
        wanted = decisions[:, policy.action_tokenizer.space.terminate :].copy()
        if name == 'position' and card.gripper and card.gripper.kind == 'relative':
            robot = policy.robot()
            wanted[:, -1] = [robot.to_absolute_gripper(action)[-1] for action in decisions]
            assert metadata['gripper']['kind'] == 'absolute' and metadata['remembers'] == [
                'gripper'
            ]
        assert_same(card, again, wanted)


def test_another_convention_by_flag_or_address(journey):
    card, _, tokens, policy = journey
    action = policy.action_tokenizer.decode(tokens[0])[policy.action_tokenizer.space.terminate :]
    own = policy.convention().values(policy.action_tokenizer.decode(tokens[0]))
    with emitting(policy, tokens[:1] * 3, settings=Settings(convention='internal')) as server:
        np.testing.assert_array_equal(by_act(server).astype(np.float32), action)
        np.testing.assert_array_equal(by_act(server, '?convention=robot'), own)
        for query, says in {
            '?convention=robt': "Unknown convention 'robt'; did you mean 'robot'",
            '?convntion=robot': "Unknown parameter 'convntion'; did you mean 'convention'",
        }.items():
            message = {'image': PICTURE, 'instruction': 'pick banana'}
            reply = requests.post(f'{server.http}/act{query}', codec.dumps(message), timeout=5)
            assert reply.status_code == 400 and says in reply.json()['error']
            with pytest.raises(InvalidStatus, match='400') as refused:
                server.robot(query=query)
            assert says in json.loads(refused.value.response.body)['error']
    with pytest.raises(ValueError, match="did you mean 'robot'"):
        Settings(convention='robo')


def test_a_position_where_the_data_have_changes_needs_a_websocket(journey):
    card, _, tokens, policy = journey
    relative = card.gripper is not None and card.gripper.kind == 'relative'
    message = codec.dumps({'image': PICTURE, 'instruction': 'pick banana'})
    with emitting(policy, tokens) as server:
        reply = requests.post(f'{server.http}/act?convention=position', message, timeout=20)
        if relative:
            assert reply.status_code == 400 and 'connect by websocket' in reply.json()['error']
        else:
            assert reply.headers['RT2-Convention'] == 'position'


@pytest.mark.parametrize('scheme', ['ws', 'http'])
@pytest.mark.parametrize('convention', [*CONVENTIONS])
def test_evaluation_turns_them_back(journey, scheme, convention):
    """`evaluate --server` gets the decided actions, whatever numbers the server was started with."""
    card, _, tokens, policy = journey
    relative = card.gripper is not None and card.gripper.kind == 'relative'
    # Without memory there is no position for this gripper, so the address asks for another convention.
    query = (
        '/?convention=robot' if (scheme, convention, relative) == ('http', 'position', True) else ''
    )
    decisions = policy.action_tokenizer.decode(np.stack(tokens))
    robot = policy.robot()
    wanted = [robot.to_absolute_gripper(action) for action in decisions]
    with emitting(policy, tokens, settings=Settings(convention=convention)) as running_server:
        address = f'{scheme}://127.0.0.1:{running_server.port}{query}'
        server = remote_policy.Server(address, 1, cards.TABLETOP)
        # What closed_loop.run does with the card: positions for the tabletop's gripper.
        follows = Robot(card=server.embodiment)
        environment = object()
        decide, received = server.decide(), []
        for i in range(len(tokens)):
            observation = {'image': PICTURE[None], 'instruction': 'pick banana', 'is_first': i == 0}
            (move,) = decide([observation], [environment])
            received.append(follows.to_absolute_gripper(move.action))
        server.close()
    assert_same(card, np.stack(received), np.stack(wanted))


def documented():
    """The README's examples: {card: [{convention: numbers}, ...]}."""
    examples = {}
    pattern = r'^\| `(\w+)` \| [\w ]+ \| `([^`]+)` \| `([^`]+)` \| `([^`]+)` \|$'
    for card, *columns in re.findall(pattern, README.read_text(), re.MULTILINE):
        values = [np.array(column.split(), np.float64) for column in columns]
        examples.setdefault(card, []).append(dict(zip(CONVENTIONS, values, strict=True)))
    return examples


@pytest.mark.parametrize('name', sorted(documented()))
def test_the_documented_example_of_a_card(name, tiny):
    """What the README says each protocol sends is what a client gets."""
    card, examples = cards.find(name), documented()[name]
    space = card.action_space
    policy = Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, space, embodiment=card
    )
    flag, zeros = [0.0] * space.terminate, np.zeros(space.length)
    decisions = [
        Answer(np.float32([*flag, *example['internal']]), 0.0, zeros, '', zeros, zeros, zeros)
        for example in examples
    ]
    for convention in CONVENTIONS:
        wanted = np.stack([example[convention] for example in examples])
        query = f'?convention={convention}' if convention != 'robot' else ''
        with deciding(policy, decisions * 2) as server:
            with server.robot(query) as robot:
                found = np.stack([robot.infer(PICTURE)['actions'][0] for _ in examples])
            np.testing.assert_allclose(found, wanted, atol=1e-7)
            if convention != 'position' or not policy.convention(convention).needs_memory:
                posted = np.stack([by_act(server, query) for _ in examples])
                np.testing.assert_allclose(posted, wanted, atol=1e-7)


def test_without_a_card_there_are_only_the_projects_own_numbers(tiny):
    space = cards.FRACTAL.action_space
    assert Convention.create(None, space).name == 'internal'
    with pytest.raises(ValueError, match="needs the robot's embodiment card"):
        Convention.create('robot', space)
