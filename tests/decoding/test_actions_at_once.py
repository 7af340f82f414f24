"""Actions whose numbers are decided at once: no number depends on another, in training as in decoding."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_compact import MODELS, ONE_QUICK

from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.models import backbone
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.training import step
from rt2_jax.training.action_metrics import ActionTables, with_slots

VISION = dict(width=16, depth=1, heads=2, mlp=32, patch=16)
BINS = tuple(range(10, 42))


@pytest.fixture(scope='module', params=ONE_QUICK)
def case(request):
    """A tiny backbone of each kind with random weights, and two questions."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 255, (2, 1, 32, 32, 3)).astype(np.uint8)
    prompt = np.array([[5, 6, 7, 0], [5, 8, 0, 0]], np.int32)
    fields = dict(name=request.param, dtype='float32', vision=VISION) | MODELS[request.param]
    model = backbone.build(fields, 50)
    target = np.zeros((2, 4), np.int32)
    init = jax.jit(lambda key: nn.meta.unbox(model.init(key, images, prompt, target)['params']))
    return model, init(jax.random.key(0)), images, prompt


@pytest.fixture(scope='module')
def grammar():
    return Grammar(
        BINS,
        (7, 8),
        pad_id=0,
        eos_id=1,
        vocab_size=50,
        action_length=5,
        plan_length=4,
        one_pass=True,
    )


def test_at_once_is_what_steps_give(case, grammar):
    model, params, images, prompt = case
    settings = dict(rng=jax.random.key(0), temperature=1.0, num_samples=3, alternatives=2)
    at_once = Sampler(model, grammar)(params, images, prompt, Kind.ACTION, **settings)
    # Beside a text, an action is decoded step by step.
    both = np.stack([Kind.ACTION, Kind.TEXT])
    stepwise = Sampler(model, grammar)(params, images, prompt, both, **settings)
    np.testing.assert_array_equal(at_once.tokens[0], stepwise.tokens[0, :, :5])
    np.testing.assert_allclose(at_once.log_probs[0], stepwise.log_probs[0, :, :5], atol=1e-4)
    np.testing.assert_allclose(at_once.top_k[1][0], stepwise.top_k[1][0, :, :5], atol=1e-4)
    masked = dataclasses.replace(Sampler(model, grammar), restrict=False)
    masked = masked(params, images, prompt, Kind.ACTION, **settings)
    np.testing.assert_array_equal(at_once.tokens, masked.tokens)
    np.testing.assert_allclose(at_once.log_probs, masked.log_probs, atol=1e-4)


def test_no_number_depends_on_another(case, grammar):
    model, params, images, prompt = case
    for one_pass in (True, False):
        sampler = Sampler(model, dataclasses.replace(grammar, one_pass=one_pass))
        for kind, place in ((Kind.ACTION, 0), (Kind.PLAN, 4)):
            scores = []
            for first in BINS[:2]:  # a plan is two words and the marker, then the flag is forced
                forced = [9, 9, 7, 8, first][4 - place :]
                answer = sampler(params, images, prompt, kind, forced=[forced] * 2)
                scores.append(np.asarray(answer.entropies)[:, 0, place + 1 :])
            assert np.allclose(*scores, atol=1e-5) == one_pass, (kind, one_pass)


def test_compact_weights_decide_at_once_too(case, grammar):
    model, params, images, prompt = case
    few, rounded = compact.compact(model, params, 'bfloat16', (images, prompt, prompt))
    stored = Sampler(model, grammar)(params, images, prompt, Kind.ACTION)
    answer = Sampler(few, grammar)(rounded, images, prompt, Kind.ACTION)
    np.testing.assert_allclose(answer.entropies, stored.entropies, atol=0.05)


def test_a_batch_of_any_size_is_exported(case, grammar):
    model, params, images, prompt = case
    sampler = Sampler(model, grammar)
    (rows,) = jax.export.symbolic_shape('rows')
    shapes = [jax.ShapeDtypeStruct((rows, *x.shape[1:]), x.dtype) for x in (images, prompt)]
    act = jax.jit(lambda images, prompt: sampler.greedy(params, images, prompt, Kind.ACTION).tokens)
    exported = jax.export.export(act)(*shapes)
    tokens = sampler(params, images, prompt, Kind.ACTION).tokens
    np.testing.assert_array_equal(exported.call(images, prompt), tokens)


def test_training_reads_what_decoding_reads(tokenizer):
    space = ActionSpace.rt1_bounds()
    actions = ActionTokenizer(space, tokenizer)
    grammar = Grammar.create(tokenizer, actions, one_pass=True)
    kinds = ['robot', 'robot_plan', 'web']
    tables = ActionTables.create(
        tokenizer, ['arm', 'web'], kinds, ['robot', 'robot_plan'], {'arm': space}, one_pass=True
    )
    action = actions.encode(np.zeros(8)).tolist()
    plan = tokenizer.encode(prompts.plan('banana 410 530'))
    rows = [action, plan + action, tokenizer.encode('banana 410 530')]
    target = np.zeros((3, 32), np.int32)
    for row, ids in zip(target, rows):
        row[: len(ids) + 1] = [*ids, tokenizer.eos_id]
    batch = dict(target=target, source=np.array([0, 0, 1]), kind=np.arange(3))
    batch = {name: jnp.asarray(x) for name, x in batch.items()}
    shifted = step.shift_right(batch['target'])
    inputs = np.asarray(with_slots(shifted, batch, tables))
    for row, ids in zip(inputs[:2], rows):
        np.testing.assert_array_equal(
            row[: len(ids)], grammar.decoder_inputs(np.array(ids, np.int32))
        )
        assert row[len(ids)] == ids[-1]  # before the end
    np.testing.assert_array_equal(inputs[2], shifted[2])
    # No number of an action, all of which are 128, is read before another.
    assert not (inputs[0, : len(action)] == action[1]).any()
