"""The policy: preprocessing, prompts, batching, plans, and what it refuses."""

import copy
import dataclasses
import os
import shutil
import subprocess
import sys

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.data import cards, images
from rt2_jax.data.augmentation import RECIPES, Augmentation
from rt2_jax.data.history import History
from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import log_softmax
from rt2_jax.policy import Policy
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace

# The policy of a checkpoint on one device, and on eight that share its weights and its batch.
ON_A_MESH = """
import sys
import numpy as np
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.policy import Policy

mesh = mesh_lib.make_mesh({'data': 2, 'fsdp': 2, 'tensor': 2})
frames = list(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8))
instructions = [f'pick {name}' for name in 'banana bell car drum frog'.split()]
alone, shared = (Policy.from_checkpoint(sys.argv[1], mesh=m, batch_sizes=(4,)) for m in (None, mesh))
for one, other in zip(*(p.act_batch(frames, instructions) for p in (alone, shared)), strict=True):
    np.testing.assert_array_equal(one.action, other.action)
    np.testing.assert_allclose(one.log_prob, other.log_prob, atol=1e-4)
looks = [p.attention(frames[0], 'pick banana', one) for p in (alone, shared)]
np.testing.assert_allclose(*looks, atol=1e-4)
kernel = shared.params['head']['kernel']
assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4, kernel.sharding
try:
    Policy.from_checkpoint(sys.argv[1], mesh=mesh, batch_sizes=(6,))
except ValueError as error:
    assert 'multiples of 4 = data x fsdp' in str(error), error
"""


def make_policy(tiny, **settings):
    settings = {'batch_sizes': (4,)} | settings
    return Policy.from_config(
        tiny.config(), tiny.params(1), tiny.tokenizer, ActionSpace.rt1_bounds(), **settings
    )


@pytest.fixture(scope='module')
def policy(tiny):
    return make_policy(tiny)


def pictures(number: int, size: int = 40) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (number, 4, 4, 3), np.uint8)
    return [cv2.resize(picture, (size, size)) for picture in coarse]


def test_act_gives_an_action_in_its_space_with_its_probability(policy):
    decision = policy.act(pictures(1)[0], 'pick banana')
    space = policy.action_tokenizer.space
    assert decision.action.shape == (8,) and decision.action.dtype == np.float32
    assert decision.action[0] in (0, 1)
    assert (decision.action[1:] >= np.float32(space.low)).all()
    assert (decision.action[1:] <= np.float32(space.high)).all()
    assert -np.inf < decision.log_prob < 0 and decision.plan == ''
    assert decision.entropies.shape == (8,) and (decision.entropies >= 0).all()


def test_a_batch_of_any_size_equals_one_at_a_time(policy):
    """Seven robots go through static batches of four."""
    frames = pictures(7)
    instructions = [f'pick {name}' for name in 'banana bell car drum frog apple chair'.split()]
    together = policy.act_batch(frames, instructions)
    for frame, instruction, decision in zip(frames, instructions, together, strict=True):
        alone = policy.act(frame, instruction)
        np.testing.assert_array_equal(alone.action, decision.action)
        assert alone.log_prob == pytest.approx(decision.log_prob, abs=1e-4)
    assert len({tuple(decision.action) for decision in together}) > 1
    assert policy.act_batch([], []) == []


def test_the_same_path_as_training(policy, tiny, action_tokenizer):
    """Scoring the policy's own action by teacher forcing on training's preprocessing agrees."""
    frame, instruction = pictures(1)[0], 'push bell to car'
    decision = policy.act(frame, instruction)
    ids = action_tokenizer.encode(decision.action)[None]
    prompt = policy.prompt_array([prompts.robot(instruction)])
    frames = images.resize(frame[None, None], tiny.image_size)
    target_in = np.pad(ids[:, :-1], [(0, 0), (1, 0)])
    logits = jax.jit(tiny.model.apply)({'params': policy.params}, frames, prompt, target_in)
    total = 0.0
    for position in range(8):
        columns = np.asarray(action_tokenizer.integer_ids[: 2 if position == 0 else 256])
        log_p = jax.nn.log_softmax(logits[0, position, columns])
        total += float(log_p[list(columns).index(ids[0, position])])
    assert total == pytest.approx(decision.log_prob, abs=1e-3)


def test_actions_are_decided_on_the_centre_that_training_kept(policy):
    frame = np.random.default_rng(5).integers(0, 256, [100, 200, 3], np.uint8)
    whole = images.resize(frame[None], policy.image_size)
    side = round(200 * 0.9**0.5), round(100 * 0.9**0.5)
    centre = images.resize(frame[None, 3 : 3 + side[1], 5 : 5 + side[0]], policy.image_size)
    np.testing.assert_array_equal(policy.preprocess(frame), whole)
    cropping = copy.copy(policy)
    cropping.settings = dataclasses.replace(
        policy.settings, augment=Augmentation(**RECIPES['openvla'])
    )
    np.testing.assert_array_equal(cropping.preprocess(frame), centre)
    cropping.settings = dataclasses.replace(cropping.settings, whole_plans=True)
    for kind in (Kind.TEXT, Kind.PLAN):
        np.testing.assert_array_equal(cropping.preprocess(frame, kind), whole)
    cropping.settings = dataclasses.replace(cropping.settings, whole_plans=False)
    np.testing.assert_array_equal(cropping.preprocess(frame, Kind.PLAN), centre)
    expected = policy.act(centre[0], 'pick banana')
    assert cropping.act(frame, 'pick banana').log_prob == expected.log_prob


def test_encoded_pictures_are_taken_too(policy):
    frame = pictures(1)[0]
    png = cv2.imencode('.png', frame[..., ::-1])[1].tobytes()
    expected = policy.act(frame, 'pick banana').action
    np.testing.assert_array_equal(policy.act(png, 'pick banana').action, expected)
    np.testing.assert_array_equal(policy.act([png], 'pick banana').action, expected)


def test_temperature_and_seed(policy):
    frames, instructions = pictures(1) * 4, ['pick banana'] * 4
    drawn = policy.act_batch(frames, instructions, temperature=1.0, seed=3)
    again = policy.act_batch(frames, instructions, temperature=1.0, seed=3)
    other = policy.act_batch(frames, instructions, temperature=1.0, seed=4)
    unseeded = [policy.act(frames[0], 'pick banana', temperature=1.0) for _ in range(3)]
    actions = lambda decisions: np.stack([decision.action for decision in decisions])
    np.testing.assert_array_equal(actions(drawn), actions(again))
    assert (actions(drawn) != actions(other)).any()
    assert len(np.unique(actions(drawn), axis=0)) > 1
    assert len(np.unique(actions(unseeded), axis=0)) > 1


def test_plans(policy):
    frames, instructions = pictures(3), ['pick fruit', 'pick banana', 'pick bell']
    decisions = policy.act_batch(frames, instructions, plan=[True, 'pick banana', False])
    assert decisions[0].plan and 'Action:' not in decisions[0].plan
    assert [d.plan for d in decisions[1:]] == ['pick banana', '']
    assert all(np.isfinite(d.action).all() and np.isfinite(d.log_prob) for d in decisions)
    np.testing.assert_array_equal(decisions[2].action, policy.act(frames[2], 'pick bell').action)
    with pytest.raises(ValueError, match='plan has more than'):
        policy.act(frames[0], 'pick fruit', plan='first ' * 40)


def scored(policy, frames, texts, decisions):
    """Log-probabilities [T, V] of all that each row of an answer could be, by teacher forcing."""
    grammar = policy.sampler.grammar
    answers = [[*d.plan_tokens, *d.tokens] for d in decisions]
    target = np.array([row + [0] * (23 - len(row)) for row in answers])
    seen = np.stack([policy.preprocess(frame) for frame in frames])
    shifted = np.pad(target[:, :-1], [(0, 0), (1, 0)])
    logits = jax.jit(policy.model.apply)(
        {'params': policy.params}, seen, policy.prompt_array(texts), shifted
    )
    allowed = jax.jit(lambda state: grammar.allowed(state, None, logits.shape[-1]))
    kinds = [Kind.PLAN if len(d.plan_tokens) else Kind.ACTION for d in decisions]
    advance = jax.jit(grammar.advance)
    state, found = grammar.start(jnp.asarray(kinds, jnp.int32)), []
    for place in range(23):
        found.append(log_softmax(logits[:, place], allowed(state)))
        state = advance(state, jnp.asarray(target[:, place], jnp.int32))
    rows = zip(np.stack(found, 1), answers, strict=True)
    return [(scores[: len(answer)], np.array(answer)) for scores, answer in rows]


def test_probabilities_are_those_of_teacher_forcing(policy):
    """Of a planned action, of one with a plan that was told and of one at once, however drawn."""
    frames, names, plans = pictures(3), ['fruit', 'banana', 'bell'], [True, 'pick banana', False]
    decisions, usual = [], []
    for temperature in (0.0, 1.0):
        told = dict(plan=plans, temperature=temperature, seed=1)
        decisions += policy.act_batch(frames, names, alternatives=4, **told)
        usual += policy.act_batch(frames, names, **told)
    words = [prompts.robot_plan, prompts.robot_plan, prompts.robot]
    texts = [word(name) for word, name in zip(words, names, strict=True)]
    rows = scored(policy, frames * 2, texts * 2, decisions)
    for decision, plain, (scores, answer) in zip(decisions, usual, rows, strict=True):
        np.testing.assert_array_equal(decision.tokens, plain.tokens)
        np.testing.assert_array_equal(decision.action, plain.action)
        assert plain.alternatives == () and len(decision.alternatives) == 8
        log_probs = np.take_along_axis(scores, answer[:, None], 1)[:, 0]
        np.testing.assert_allclose(decision.log_probs, log_probs[-8:], atol=1e-4)
        assert decision.log_prob == pytest.approx(log_probs.sum(), abs=1e-3)
        p = np.exp(scores[-8:])
        np.testing.assert_allclose(decision.entropies, -(p * scores[-8:]).sum(1), atol=1e-3)
        for place, (number, row) in enumerate(zip(decision.alternatives, p, strict=True)):
            assert len(number) == (2 if place == 0 else 4)
            likeliest = np.sort(row)[::-1][: len(number)]
            np.testing.assert_allclose([x.probability for x in number], likeliest, atol=1e-4)
            if answer[place - 8] == row.argmax():
                assert number[0].value == decision.action[place]


def test_where_it_looked(policy):
    frame = pictures(1)[0]
    decisions = policy.act_batch([frame] * 2, ['pick fruit'] * 2, plan=[False, 'pick banana'])
    told = policy.tokenizer.encode(prompts.plan('pick banana'))
    assert [decision.plan_tokens.tolist() for decision in decisions] == [[], told]
    for decision in decisions:
        looks = policy.attention(frame, 'pick fruit', decision)
        assert looks.shape == (8, 1, 2, 2) and looks.dtype == np.float32
        assert (looks > 0).all() and (looks.sum((1, 2, 3)) < 1).all()
    by_layer = policy.attention(frame, 'pick fruit', decision, per_layer=True)
    np.testing.assert_allclose(by_layer.mean(0), looks, atol=1e-6)
    with pytest.raises(ValueError, match='has 2 numbers; this policy decides 8'):
        policy.attention(
            frame, 'pick fruit', dataclasses.replace(decision, tokens=decision.tokens[:2])
        )


def test_a_command_is_what_the_card_says(tiny, policy):
    sticky = make_policy(tiny, embodiment=cards.KUKA)
    action = np.array([1, 0.1, 0.2, 0.3, 0, 0, 0, 0.5], np.float32)
    command = sticky.command(action)
    np.testing.assert_allclose(command['action/world_vector'], [0.1, 0.2, 0.3], atol=1e-6)
    np.testing.assert_array_equal(command['action/terminate_episode'], [1, 0, 0])
    assert sticky.robot().to_absolute_gripper(action)[7] == 1
    assert policy.robot().to_absolute_gripper(action)[7] == 0.5
    with pytest.raises(ValueError, match='knows no embodiment card'):
        policy.command(action)


def test_answers_are_text(policy):
    answers = policy.answer_batch(pictures(2), ['what is in the image', 'where is the bell?'])
    assert all(isinstance(answer, str) for answer in answers)
    assert policy.answer(pictures(1)[0], 'what is in the image') == answers[0]
    raw = policy.answer_batch(pictures(1), [prompts.web('what is in the image')], raw=True)
    assert raw == answers[:1]


@pytest.mark.parametrize(
    'image, message',
    [
        (np.full([40, 40, 3], np.nan), 'float64 with values that are NaN'),
        (np.ones([40, 40, 3], np.float32), 'must be uint8 RGB'),
        (np.zeros([40, 40, 4], np.uint8), r'\[H, W, 3\]'),
        (np.zeros([40, 0, 3], np.uint8), r'\[H, W, 3\]'),
        (np.zeros([2, 40, 40, 3], np.uint8), 'sees 1 frame'),
        ([np.zeros([40, 40, 3], np.uint8), np.zeros([9, 9, 3], np.uint8)], 'differ in shape'),
        (b'no picture', 'neither a JPEG nor a PNG'),
        (None, 'must be uint8'),
    ],
)
def test_bad_images_raise(policy, image, message):
    with pytest.raises(ValueError, match=message):
        policy.act(image, 'pick banana')


@pytest.mark.parametrize('instruction', ['', '  ', None, 3])
def test_bad_instructions_raise(policy, instruction):
    with pytest.raises(ValueError, match='instruction must be a text'):
        policy.act(pictures(1)[0], instruction)


def test_numbers_that_differ_raise(policy):
    with pytest.raises(ValueError, match='2 images, 1 instructions'):
        policy.act_batch(pictures(2), ['pick banana'])
    with pytest.raises(ValueError, match='2 images for 1 questions'):
        policy.answer_batch(pictures(2), ['what is in the image'])


def test_an_instruction_longer_than_the_prompt_raises_or_is_cut_and_counted(tiny, policy):
    long = 'pick banana ' + 'and the bell ' * 30
    with pytest.raises(ValueError, match='tokens; this model takes 32'):
        policy.act(pictures(1)[0], long)
    lenient = make_policy(tiny, long_prompts='clip')
    lenient.act(pictures(1)[0], long)
    assert lenient.clipped_prompts == 1
    ids = lenient.prompt_array([prompts.robot('pick banana')])
    assert ids.shape == (1, 32) and lenient.clipped_prompts == 1
    with pytest.raises(ValueError, match="did you mean 'clip'"):
        make_policy(tiny, long_prompts='clipp')


def test_from_checkpoint(tiny_checkpoint, tiny):
    policy = Policy.from_checkpoint(tiny_checkpoint, batch_sizes=(1,))
    assert policy.step == 7 and policy.config.data.image_size == tiny.image_size
    jax.tree.map(np.testing.assert_array_equal, policy.params, tiny.params(0))
    assert policy.action_tokenizer.space == ActionSpace.rt1_bounds()
    assert policy.source == 'tabletop' and policy.sources == ('tabletop',)
    assert policy.embodiment == cards.TABLETOP
    untrained = Policy.from_checkpoint(tiny_checkpoint, untrained=True, seed=5)
    assert untrained.step == 0
    trees = jax.tree.map(
        lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), policy.params, untrained.params
    )
    assert all(jax.tree.leaves(trees))
    head = lambda policy: np.asarray(policy.params['head']['kernel'])
    assert (head(policy) != head(untrained)).any()


def test_an_untrained_policy_reads_no_weights(tiny_checkpoint, tmp_path):
    run = shutil.copytree(tiny_checkpoint, tmp_path / 'run')
    files = [path for path in (run / 'checkpoints/7/params').rglob('*') if path.is_file()]
    arrays = max(files, key=lambda path: path.stat().st_size)  # the others list them
    arrays.write_bytes(bytes(arrays.stat().st_size))
    with pytest.raises(CheckpointError, match='checkpoints/7'):
        Policy.from_checkpoint(run)
    assert Policy.from_checkpoint(run, untrained=True).step == 0


def test_devices_of_a_process_share_the_work(tiny_checkpoint):
    result = subprocess.run(
        [sys.executable, '-c', ON_A_MESH, str(tiny_checkpoint)],
        capture_output=True,
        text=True,
        env=os.environ
        | {
            'XLA_FLAGS': os.environ['XLA_FLAGS'] + ' --xla_force_host_platform_device_count=8',
            'JAX_PLATFORMS': 'cpu',
            'JAX_DISABLE_MOST_OPTIMIZATIONS': '1',
        },
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize('shares, plans', [([], False), ([0.4], False), ([0.5, 1.0], True)])
def test_it_plans_if_it_was_taught_so_half_the_time(tiny, shares, plans):
    config = tiny.config().copy_and_resolve_references().unlock()
    config.data.robot = {f'robot{i}': {'plan_share': share} for i, share in enumerate(shares)}
    args = config, tiny.params(1), tiny.tokenizer, ActionSpace.rt1_bounds()
    assert Policy.from_config(*args).plan is plans
    assert Policy.from_config(*args, plan=not plans).plan is not plans


def test_directories_that_hold_no_checkpoint_raise(tmp_path, tiny_checkpoint):
    with pytest.raises(CheckpointError, match='is empty'):
        Policy.from_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match='no checkpoint of step 9'):
        Policy.from_checkpoint(tiny_checkpoint, step=9)


def test_warm_up_compiles_all_that_acting_needs(tiny):
    policy = make_policy(tiny, batch_sizes=(2,))
    before = policy.sampler._sample._cache_size()
    policy.warm_up()
    compiled = policy.sampler._sample._cache_size()
    assert compiled == before + 1
    policy.act(pictures(1)[0], 'pick banana')
    policy.act_batch(pictures(5), ['pick banana'] * 5, temperature=1.0, seed=0)
    assert policy.sampler._sample._cache_size() == compiled


def test_a_model_with_a_history(tiny):
    """It acts on its two frames and no other number; a single picture stands still for a question."""
    policy = make_policy(tiny, frames=2)
    first, second = pictures(2)
    history = History(policy.frames, policy.frame_stride)
    still, moved = history.add(first), history.add(second)
    np.testing.assert_array_equal(moved, [first, second])
    together = policy.act_batch([still, moved], ['pick banana'] * 2)
    assert together[0].log_prob != together[1].log_prob
    assert policy.act(moved, 'pick banana').log_prob == pytest.approx(
        together[1].log_prob, abs=1e-4
    )
    with pytest.raises(ValueError, match=r'sees 2 frame\(s\) at a time, 1 step\(s\) apart; got 1'):
        policy.act(first, 'pick banana')
    answers = policy.answer_batch([first, still], ['where is the bell'] * 2)
    assert answers[0] == answers[1]
