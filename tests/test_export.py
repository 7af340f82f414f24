"""An exported policy runs without this package, and answers as the policy does."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import jax
import numpy as np
import pytest

pytest.importorskip('flatbuffers', reason="exporting needs pip install 'rt2_jax[export]'")

from rt2_jax import export
from rt2_jax.checkpoints import param_shapes
from rt2_jax.checkpoints.inspection import opened, survey
from rt2_jax.data import cards
from rt2_jax.decoding.grammar import Kind
from rt2_jax.exported import function
from rt2_jax.exported.exported_policy import ExportedPolicy
from rt2_jax.policy import Policy
from rt2_jax.text.actions import ActionSpace

INSTRUCTIONS = ['pick banana', 'push bell to car.']
# What policy.json says of calling, in an interpreter in which nothing of ours can be imported.
ALONE = """
import sys
for name in ('rt2_jax', 'flax', 'orbax', 'optax', 'sentencepiece', 'absl', 'etils', 'ml_collections'):
    sys.modules[name] = None
import json, os
os.chdir(sys.argv[1])
said = {}
exec(chr(10).join(json.load(open('policy.json'))['call']), said)
said['np'].savez(sys.argv[2], **said['answer'])
assert not [name for name in sys.modules if name.startswith('rt2_jax.')]
"""


@pytest.fixture(scope='module')
def policy(tiny_checkpoint):
    return Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(2,))


@pytest.fixture(scope='module')
def exported(policy, tmp_path_factory):
    """An exported policy that acts, for any number of rows."""
    directory = tmp_path_factory.mktemp('exported')
    export.export(policy, directory)
    return directory


def test_with_jax_alone_it_acts_as_the_policy_does(exported, policy, tmp_path):
    """Other pictures and instructions than the example's, put in its place."""
    folder = copy(exported, tmp_path)
    coarse = np.random.default_rng(3).integers(0, 256, (2, 4, 4, 3), np.uint8)
    frames = [cv2.resize(picture, (40, 40)) for picture in coarse]
    decisions = policy.act_batch(frames, INSTRUCTIONS)
    actions = np.stack([x.action for x in decisions])
    template = json.loads((folder / 'policy.json').read_text())['prompts']['action']['template']
    texts = [template.format(instruction=x.rstrip('.')) for x in INSTRUCTIONS]
    given = {
        'action/images': np.stack([policy.preprocess(frame) for frame in frames]),
        'action/prompt': policy.prompt_array(texts),
        'action/tokens': policy.action_tokenizer.encode(actions),
    }
    np.savez(folder / 'example.npz', **given)
    subprocess.run(
        [sys.executable, '-I', '-c', ALONE, folder, tmp_path / 'answer.npz'],
        env=os.environ | {'JAX_PLATFORMS': 'cpu', 'JAX_DISABLE_MOST_OPTIMIZATIONS': '1'},
        check=True,
    )
    answer = np.load(tmp_path / 'answer.npz')
    np.testing.assert_array_equal(answer['actions'], actions)
    assert answer['actions'].dtype == np.float32 and (actions[0] != actions[1]).any()
    log_probs = [x.log_prob for x in decisions]
    np.testing.assert_allclose(answer['log_probs'].sum(1), log_probs, atol=1e-4)
    np.testing.assert_allclose(answer['entropies'], [x.entropies for x in decisions], atol=1e-4)


def test_what_it_tells_is_what_the_checkpoint_says(exported, tiny_checkpoint, tokenizer):
    told = json.loads((exported / 'policy.json').read_text())
    space = ActionSpace.rt1_bounds()
    assert told['action']['names'] == list(space.number_names)
    assert told['action']['units'] == ['1', 'm', 'm', 'm', 'rad', 'rad', 'rad', '1']
    assert told['action']['high'] == [1.0, *space.high] and told['action']['frequency_hz'] == 3
    assert told['inputs']['images']['shape'] == ['B', 1, 16, 16, 3]
    first = told['example']['first_row']['action']
    ids = tokenizer.encode(told['prompts']['action']['template'].format(instruction='pick banana'))
    assert first['prompt_ids'] == ids + [0] * (32 - len(ids))
    assert told['functions']['action'][0]['batch'] == 'any'
    assert told['platforms'] == ['cpu', 'tpu', 'cuda'] and told['acts_by'] == 'action'
    assert (exported / 'tokenizer.model').read_bytes() == tokenizer.model_bytes
    report = survey.survey(*map(opened.open_checkpoint, (exported, tiny_checkpoint)))
    assert report['kind'] == 'exported policy' and not report['warnings']
    assert all(change['equal'] for change in report['against']['parameters'].values())


def test_plans_of_a_bfloat16_model_in_listed_batches(tiny, tmp_path):
    """Two numbers an action and no flag; three rows go through a batch of four."""
    config = tiny.config().unlock()
    config.model.dtype = 'bfloat16'
    policy = Policy.from_config(
        config, tiny.params(2), tiny.tokenizer, ActionSpace.language_table(), plan_length=6
    )
    settings = dict(kinds=[Kind.PLAN], platforms=['cpu'], batch_sizes=[4], run=False)
    told = export.export(policy, tmp_path, **settings)
    assert told['weights']['types'] == ['bfloat16', 'float32']
    assert told['functions']['plan'][0]['batch'] == 4
    played = ExportedPolicy(tmp_path, 'plan')
    inputs, expected = played.example()
    answer = played(**{name: x[:3] for name, x in inputs.items()})
    for name, value in expected.items():
        np.testing.assert_allclose(answer[name], value[:3], atol=1e-3, err_msg=name)
    for row, tokens, length in zip(answer['actions'], answer['tokens'], answer['lengths']):
        np.testing.assert_array_equal(row, policy.action_tokenizer.decode(tokens[:length][-2:]))
    with pytest.raises(ValueError, match=r'5 rows; the exported batches are \[4\]'):
        played(*tiny.inputs(0, 5))


def test_actions_are_in_the_robots_own_numbers(tiny, tmp_path):
    """Bridge's gripper is 1 open and 0 closed; a position where the data have changes needs memory."""
    settings = dict(platforms=['cpu'], batch_sizes=[2])
    card = cards.BRIDGE_DATASET
    policy = Policy.from_config(
        tiny.config(), tiny.params(2), tiny.tokenizer, card.action_space, embodiment=card
    )
    told = export.export(policy, tmp_path / 'robot', run=False, **settings)
    assert told['action']['convention'] == 'robot'
    assert told['action']['gripper'] == {'kind': 'absolute', 'closed': 0.0, 'open': 1.0}
    assert (told['action']['low'][7], told['action']['high'][7]) == (0.0, 1.0)
    played = ExportedPolicy(tmp_path / 'robot')
    answer = played(**played.example()[0])
    decided = policy.action_tokenizer.decode(answer['tokens'][:, :8])
    commands = [card.command_values(action) for action in decided]
    np.testing.assert_array_equal(answer['actions'][:, 1:], np.float32(commands))
    sticky = Policy.from_config(
        tiny.config(), tiny.params(2), tiny.tokenizer, card.action_space, embodiment=cards.KUKA
    )
    with pytest.raises(ValueError, match='a function without memory cannot'):
        export.export(sticky, tmp_path / 'position', convention='position', **settings)
    assert not (tmp_path / 'position').exists()


ATTENTION = dict(heads=2, kv_heads=1, head_dim=8, scale=0.5)
STACK = dict(width=16, depth=2, mlp=24, attention=ATTENTION, every=2, window=8)
BACKBONES = {
    'decoder_only': dict(text=STACK),
    't5gemma2': dict(encoder=STACK, decoder=STACK, image_tokens=1, before_image=(2,), after_image=(6,),
                     end_of_image=5),
}  # fmt: skip


@pytest.mark.parametrize('name', BACKBONES)
def test_other_backbones_take_any_number_of_rows(tiny, name):
    config = tiny.config().unlock()
    vision = config.model.vision
    config.model = dict(name=name, dtype='bfloat16', vision=vision, **BACKBONES[name])
    shapes = param_shapes.shapes(config, tiny.tokenizer)
    zeros = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    policy = Policy.from_config(config, zeros, tiny.tokenizer, ActionSpace.rt1_bounds())
    found = function.export(policy, Kind.PLAN, ['cpu'], None)
    assert list(found) == ['any']
    assert jax.export.deserialize(bytearray(found['any'])).platforms == ('cpu',)


def copy(exported, tmp_path):
    shutil.copytree(exported, tmp_path / 'copy')
    return tmp_path / 'copy'


def test_files_of_another_export_are_refused(exported, tmp_path):
    folder = copy(exported, tmp_path)
    path = folder / 'weights.safetensors'
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match='weights.safetensors is not the file that policy.json'):
        ExportedPolicy(folder)
    path.write_bytes(content[:-9])
    with pytest.raises(ValueError, match='truncated: .* ends at byte'):
        ExportedPolicy(folder, check=False)
    path.unlink()
    with pytest.raises(ValueError, match='weights.safetensors is missing'):
        ExportedPolicy(folder)
    (folder / 'action.jax').write_bytes(b'nothing')
    with pytest.raises(ValueError, match='action.jax cannot be read by jax .* written by jax'):
        ExportedPolicy(folder, check=False)
    with pytest.raises(ValueError, match='policy.json is missing'):
        ExportedPolicy(tmp_path)


def test_what_it_was_not_exported_for_is_refused(exported, policy, tmp_path):
    played = ExportedPolicy(exported)
    images, prompt = np.zeros([2, 1, 16, 16, 3], np.uint8), np.ones([2, 32], np.int32)
    with pytest.raises(ValueError, match=r"images must be \['B', 1, 16, 16, 3\]"):
        played(images[:, :, :8], prompt)
    with pytest.raises(ValueError, match='images must be uint8; got float32'):
        played(images.astype(np.float32), prompt)
    with pytest.raises(ValueError, match='2 observations for 1 prompts'):
        played(images, prompt[:1])
    with pytest.raises(ValueError, match="no function for 'text'; it has action"):
        ExportedPolicy(exported, 'text')
    folder = copy(exported, tmp_path)
    told = json.loads((folder / 'policy.json').read_text()) | {'platforms': ['tpu']}
    (folder / 'policy.json').write_text(json.dumps(told))
    with pytest.raises(ValueError, match="exported for tpu, and jax runs on 'cpu' here"):
        ExportedPolicy(folder)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine/notes.txt').touch()
    with pytest.raises(ValueError, match='holds no exported policy: notes.txt'):
        export.export(policy, tmp_path / 'mine')
