"""Two cameras and a state from a data set to a robot: trained, acted, played, served, exported."""

import json
import sys

from absl import flags
from absl.testing import flagsaver
from etils import epath
from in_process import defined_flags
import numpy as np
import open_x
import open_x_sets
import pytest
import requests
from running import running
from test_vla_eval import Harness, array, png

from rt2_jax import configuration, evaluate, train
from rt2_jax.data import views
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.robot import rlds
from rt2_jax.decoding.grammar import Kind
from rt2_jax.evaluation import closed_loop
from rt2_jax.exported import description, exported_policy
from rt2_jax.policy import Policy
from rt2_jax.serving import codec
from rt2_jax.serving.dialects import ACT, WEBSOCKET, Needs
from rt2_jax.text.actions import ActionTokenizer

LIBERO, CAMERAS = 'libero_goal_no_noops', ('image', 'wrist_image')
WORLD = '''
import numpy as np
from rt2_jax.data import cards
from rt2_jax.envs import world

class Noise:
    """Two cameras and a state, of which nothing comes; each episode has its own noise."""

    over, success, out_of_reach = False, False, 0

    def __init__(self, suite, *, image_size, render_size, execution_noise):
        self._suite = suite

    def reset(self, seed, task=None):
        self._rng, self.clipped = np.random.default_rng(seed), 0
        return world.Episode(self.step(None), 'any', 'all')

    def step(self, command):
        if command is not None:  # a number that tells other commands apart
            self.clipped = 31 * self.clipped + int(1000 * np.abs(command).sum())
        draw = lambda: self._rng.integers(0, 256, (16, 16, 3), np.uint8)
        images = {'outside': draw(), 'wrist_image': draw(), 'image': draw()}
        if self._suite == 'blind':
            del images['wrist_image']
        state = None if self._suite == 'numb' else self._rng.uniform(0, 1, 8)
        return world.Observation(images, 'open the drawer', state)

    def recognition(self):
        return None

    def render(self):
        return self._rng.integers(0, 256, (16, 16, 3), np.uint8)

    def close(self):
        pass

SUITES = {'noise': '', 'blind': 'one camera less', 'numb': 'no state'}
WORLD = world.World('noise', cards.find('libero_goal_no_noops'), SUITES, ('any',), 3, Noise, False)
'''


@pytest.fixture(scope='module')
def libero(tmp_path_factory):
    """(the folder of a data set, its steps)."""
    a_set = open_x_sets.libero()
    made = [open_x_sets.make_episode(a_set, number) for number in range(4)]
    directory = tmp_path_factory.mktemp('libero') / LIBERO
    open_x.write_dataset(directory, LIBERO, made, spec=a_set.features())
    return directory, [step for episode in made for step in episode['steps']]


@pytest.fixture(scope='module')
def config(libero):
    config = configuration.load('tests/training/tiny_config.py', 'robot').unlock()
    config.embodiment = LIBERO
    config.data.robot = dict(arm=dict(directory=str(libero[0]), card=LIBERO, weight=1.0))
    config.data.update(cameras=CAMERAS, state='q01-q99', frames=2, image_size=16, prompt_length=56)
    config.update(total_steps=2, batch_size=2, checkpoint_every=2, log_every=2)
    return config.lock()


@pytest.fixture(scope='module')
def workdir(config, tmp_path_factory):
    """A run of two steps."""
    workdir = tmp_path_factory.mktemp('run')
    assert train.train(config, epath.Path(workdir))
    return workdir


@pytest.fixture(scope='module')
def policy(workdir):
    return Policy.from_checkpoint(workdir, batch_sizes=(2,))


@pytest.fixture(scope='module')
def server(policy):
    with running(policy) as server:
        yield server


def pictures_of(step):
    return {name: step['observation'][name] for name in CAMERAS}


def test_the_checkpoint_knows_its_cameras_and_the_ranges_of_its_state(policy, libero):
    source = rlds.open_source(libero[0], LIBERO, state='q01-q99')
    assert policy.cameras == CAMERAS and policy.settings.pictures == 4
    assert policy.settings.state_space == source.state_space
    assert policy.embodiment.state == source.index.card.state


def test_a_policy_sees_and_reads_what_training_showed(policy, config, libero, tokenizer):
    """To the pixel and to the token, for a step in the middle of an episode."""
    data = DataConfig.from_config(config.data)
    source = rlds.open_source(libero[0], LIBERO, cameras=CAMERAS, state='q01-q99', frames=2)
    coder = ActionTokenizer(source.action_space, tokenizer)
    encode = ExampleEncoder(
        tokenizer, data, sources=['arm'], kinds=['robot'], actions={'arm': coder}, seed=None
    )
    row = encode(source[4], 'arm')
    robot = policy.robot()
    for step in (3, 4):
        # What the pictures lost as JPEG they have lost already.
        shown = views.observed(source.frames(step)[2:])
        seen = robot.see(dict(zip(CAMERAS, shown, strict=True)))
    instruction = source.table.instruction(4)
    inputs = policy.prepare(seen, instruction, Kind.ACTION, state=source.state(4))
    np.testing.assert_array_equal(inputs.frames, row['images'])
    np.testing.assert_array_equal(inputs.prompt, row['prompt'][row['prompt'] != 0])


def test_what_is_missing_is_named(policy, libero):
    step = libero[1][0]
    pictures, state = pictures_of(step), step['observation']['state']
    robot = policy.robot()
    with pytest.raises(ValueError, match="No picture of the camera 'wrist_image'"):
        robot.see({'image': pictures['image']})
    with pytest.raises(ValueError, match="Unknown camera 'wrist'; did you mean 'wrist_image'"):
        robot.see({'image': pictures['image'], 'wrist': pictures['wrist_image']})
    with pytest.raises(ValueError, match='a picture each of image, wrist_image; got 1'):
        robot.see(pictures['image'])
    seen = robot.see(pictures)
    with pytest.raises(ValueError, match=r'The state is missing: 8 numbers \(state_0, '):
        policy.act(seen, 'open the drawer')
    with pytest.raises(ValueError, match=r'A state has 8 numbers .* got shape \[7\]'):
        policy.act(seen, 'open the drawer', state[:7])
    assert policy.answer(pictures['image'], 'what is this') == policy.answer(
        dict.fromkeys(CAMERAS, pictures['image']), 'what is this'
    )


@pytest.fixture
def world(tmp_path, monkeypatch):
    (tmp_path / 'noise_lab').mkdir()
    (tmp_path / 'noise_lab' / 'noise_world.py').write_text(WORLD)
    monkeypatch.syspath_prepend(tmp_path)
    yield 'noise_lab.noise_world'
    for name in ('noise_lab', 'noise_lab.noise_world'):
        sys.modules.pop(name, None)


def test_it_is_played_in_process_and_by_both_protocols(policy, server, world, tmp_path):
    """Three times the same commands; the world's further camera is left out."""
    seen = dict(frames=policy.frames, cameras=policy.cameras, card=policy.embodiment)
    played = closed_loop.run(closed_loop.learnt(policy), f'{world}/noise', [0, 1], **seen)
    wanted = [rollout.to_json() for rollout in played.rollouts]
    output = tmp_path / 'results.json'
    with defined_flags(evaluate):
        flags.FLAGS(['evaluate', '--output=unused'])
        for scheme in ('ws', 'http'):
            address = f'{scheme}://127.0.0.1:{server.port}'
            with flagsaver.flagsaver(
                suite=[f'{world}/noise'], episodes=2, server=address, output=str(output)
            ):
                evaluate.main(['evaluate'])
            (figures,) = json.loads(output.read_text())['policies']['checkpoint'].values()
            assert figures['rollouts'] == wanted


def test_a_world_without_what_it_needs_is_named(policy, world):
    decide = closed_loop.learnt(policy)
    seen = dict(frames=policy.frames, card=policy.embodiment)
    for suite, cameras, says in (
        (
            'blind',
            policy.cameras,
            "camera 'wrist_image', which the world does not show; did you mean 'image'",
        ),
        ('numb', policy.cameras, 'the world has none'),
    ):
        with pytest.raises(closed_loop.ObservationError, match=says):
            closed_loop.run(decide, f'{world}/{suite}', [0], cameras=cameras, **seen)


def test_openpis_clients_send_liberos_keys(server, policy, libero):
    step = libero[1][0]
    pictures, state = pictures_of(step), step['observation']['state']
    robot = policy.robot()
    message = {f'observation/{name}': picture for name, picture in pictures.items()}
    message |= {'observation/state': state, 'prompt': 'open the drawer'}
    with server.robot() as client:
        assert client.metadata['cameras'] == list(CAMERAS)
        assert client.metadata['state']['names'] == [f'state_{i}' for i in range(8)]
        assert set(message) <= {*client.metadata['observation_keys']}
        for begins in (True, False):
            client.connection.send(codec.packb(message | {'reset': begins}))
            wanted = policy.act(robot.see(pictures), 'open the drawer', state)
            command = policy.convention().values(wanted.action)
            np.testing.assert_allclose(client.receive()['actions'][0], command, atol=1e-6)
    for key in ('observation/image', 'observation/wrist_image', 'observation/state'):
        less = {name: value for name, value in message.items() if name != key}
        with (
            server.robot() as client,
            pytest.raises(RuntimeError, match=f"The key '{key}' is missing"),
        ):
            client.connection.send(codec.packb(less))
            client.receive()
    wrong = {'state': 'x'}, {'state': np.zeros(7)}, {'state': np.full(8, np.nan)}
    says = "must be the state's numbers", r'A state has 8 numbers', 'holds NaN'
    for change, words in zip(wrong, says, strict=True):
        with server.robot() as client, pytest.raises(RuntimeError, match=words):
            client.connection.send(codec.packb(message | {'observation/state': change['state']}))
            client.receive()


def test_act_takes_them_from_openvlas_clients(server, policy, libero):
    """Each request stands alone, so it has both frames of each camera."""
    step = libero[1][0]
    twice = {name: np.stack([picture] * 2) for name, picture in pictures_of(step).items()}
    state = step['observation']['state']
    command = policy.convention().values(policy.act(twice, 'open the drawer', state).action)
    for first in ('image', 'full_image'):
        message = {first: twice['image'], 'wrist_image': twice['wrist_image'], 'state': state}
        reply = requests.post(
            f'{server.http}/act', codec.dumps({**message, 'instruction': 'open the drawer'})
        )
        np.testing.assert_allclose(np.ravel(codec.loads(reply.text)), command, atol=1e-6)
    reply = requests.post(
        f'{server.http}/act', codec.dumps({'image': twice['image'], 'instruction': 'x'})
    )
    assert reply.status_code == 400 and "The key 'wrist_image' is missing" in reply.json()['error']


def test_keys_follow_the_names_of_the_cameras():
    arm = Needs(('hand', 'image'), state=True)
    keys = {dialect.name: dialect.needed for dialect in arm.dialects(WEBSOCKET)}
    assert keys == {
        'LIBERO': ('observation/hand', 'observation/image', 'observation/state'),
        'ALOHA': ('images/hand', 'images/image', 'state'),
    }
    keys = {dialect.name: dialect.needed for dialect in arm.dialects(ACT)}
    assert keys == {
        'OpenVLA': ('hand', 'image', 'state'),
        'OpenVLA-OFT': ('full_image', 'image', 'state'),
    }
    assert Needs().dialects(ACT) == ACT
    one = Needs(state=True).dialects(WEBSOCKET)
    assert [x.needed for x in one][1] == ('observation/exterior_image_1_left', 'observation/state')
    assert 'observation/wrist_image' in one[0].ignored


def test_vla_eval_is_asked_for_the_wrist_and_the_state(server, policy, libero):
    step = libero[1][0]
    pictures, state = pictures_of(step), step['observation']['state']
    images = {'agentview': png(pictures['image']), 'wrist': png(pictures['wrist_image'])}
    task = {'task_description': 'open the drawer'}
    with Harness(server, '?camera=agentview,wrist') as harness:
        info = harness.server_info
        wanted = ('send_wrist_image', 'send_state', 'quat_no_antipodal')
        assert info['observation_params'] == dict.fromkeys(wanted, True)
        assert list(info['observation_spec']) == ['agentview', 'wrist', 'state', 'language']
        assert info['observation_spec']['state']['dims'] == 8
        kind, payload = harness.ask('observation', {'images': images, **task})
        assert kind == 'error' and "The key 'states' is missing" in payload['error']
        kind, payload = harness.ask(
            'observation', {'images': images, 'states': array(state), **task}
        )
        assert kind == 'action'
    wanted = policy.act(policy.robot().see(pictures), 'open the drawer', state).action
    np.testing.assert_allclose(
        np.frombuffer(payload['actions']['data']), policy.convention().values(wanted), atol=1e-6
    )
    reply = requests.get(f'{server.http}/', timeout=5)
    assert reply.json()['cameras'] == list(CAMERAS)
    with pytest.raises(Exception, match='400'):
        Harness(server, '?camera=agentview')


def test_an_exported_policy_says_how_both_are_given(policy, libero):
    functions = {'action': [{'file': 'action.jax'}]}
    card = description.describe(policy, [Kind.ACTION], policy.convention(), functions)
    assert card['inputs']['images']['shape'] == ['B', 4, 16, 16, 3]
    assert 'a picture each of image, wrist_image' in card['inputs']['images']['what']
    assert card['prompts']['action']['template'].startswith('State: {state}. Q: what ')
    for step in libero[1]:
        state = step['observation']['state']
        assert exported_policy.state_text(card, state) == policy.state_grid.text(state)
    with pytest.raises(ValueError, match='must be finite numbers state_0, '):
        exported_policy.state_text(card, np.zeros(7))
