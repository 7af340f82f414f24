"""Loss, sums by source and kind, errors of actions in metres and radians, accumulation."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rt2_jax.models import backbone
from rt2_jax.parallel import sharding
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.training import (
    action_metrics,
    flops as flops_lib,
    step as step_lib,
    train_state as state_lib,
)
from rt2_jax.training.action_metrics import ActionTables

TARGET_LENGTH = 12
KINDS = ('robot', 'name', 'where')
ACTING = ('robot',)
COUNTS = 2, 3  # sources, kinds
SPACES = {'arm': ActionSpace.rt1_bounds()}


@pytest.fixture(scope='module')
def batch(tiny, action_tokenizer):
    """Four rows: two of a robot (source 0, kind 0), two of the web (source 1, kinds 1 and 2)."""
    images, prompt = tiny.inputs(seed=3, batch=4)
    target = np.zeros((4, TARGET_LENGTH), np.int32)
    rng = np.random.default_rng(0)
    for row in range(2):
        action = np.concatenate([[row], rng.uniform(-1, 1, 7)]).astype(np.float32)
        target[row, :9] = [*action_tokenizer.encode(action), tiny.tokenizer.eos_id]
    target[2, :3] = [50, 60, 1]
    target[3, :5] = [50, 61, 62, 63, 1]
    return jax.tree.map(
        jnp.asarray,
        dict(
            images=images,
            prompt=prompt,
            target=target,
            index=np.arange(4, dtype=np.int32),
            source=np.array([0, 0, 1, 1], np.int32),
            kind=np.array([0, 0, 1, 2], np.int32),
        ),
    )


@pytest.fixture(scope='module')
def tables(tokenizer):
    return ActionTables.create(tokenizer, ['arm', 'web'], KINDS, ACTING, SPACES)


def start(tiny, tables, accumulate=1, frozen=()):
    optimizer = optax.sgd(0.1)
    params = tiny.params(0)
    state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    step = step_lib.make_train_step(
        tiny.model, optimizer, COUNTS, accumulate=accumulate, tables=tables, frozen=frozen
    )
    return step, state


def advance(tiny, batch, tables, accumulate):
    step, before = start(tiny, tables, accumulate)
    return jax.jit(step)(before, batch)


@pytest.fixture(scope='module')
def advanced(tiny, batch, tables):
    return advance(tiny, batch, tables, 1)


def test_evaluation_sums_what_training_does(tiny, batch, tables, advanced):
    sums = jax.jit(step_lib.make_eval_step(tiny.model, COUNTS, tables))(tiny.params(0), batch)
    trained = advanced[1].replace(gradient_norm=sums.gradient_norm)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), sums, trained)


def test_gradients_stop_at_frozen_parameters(tiny, batch, tables):
    names = sharding.named_leaves(tiny.params(0))
    frozen = frozenset(name for name in names if name.startswith('tower/'))
    flops = {}
    for held in (frozenset(), frozen):
        step, before = start(tiny, tables, frozen=held)
        flops[held] = flops_lib.count_flops(jax.make_jaxpr(step)(before, batch))
    assert flops[frozen] < flops[frozenset()]
    state, *_ = jax.jit(step)(before, batch)
    for name, value in sharding.named_leaves(state.params).items():
        assert np.array_equal(value, names[name]) == (name in frozen), name


def test_a_classifiers_tower_norms_by_the_batch_that_it_learns_from():
    tower = dict(stages=(1,), width=4, bottleneck=False, strides=(1,))
    config = dict(name='classifier', tower='resnet', vision=tower, width=8, dtype='float32')
    model = backbone.build(config, 50)
    rng = np.random.default_rng(0)
    batch = dict(
        images=rng.integers(0, 256, (2, 1, 32, 32, 3), np.uint8),
        prompt=np.ones((2, 3), np.int32),
        target=np.ones((2, 8 * 8 + 1), np.int32),  # 32 pixels by four, and the end
        source=np.zeros(2, np.int32),
        kind=np.zeros(2, np.int32),
    )
    inputs = batch['images'], batch['prompt'], batch['target']
    params = nn.meta.unbox(jax.jit(model.init)(jax.random.key(0), *inputs))['params']
    frozen = frozenset(name for name in sharding.named_leaves(params) if 'running' in name)
    assert frozen
    optimizer = optax.sgd(0.1)
    state = state_lib.TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params))
    step = step_lib.make_train_step(model, optimizer, (1, 1), frozen=frozen)
    after = sharding.named_leaves(jax.jit(step)(state, batch)[0].params)
    before = sharding.named_leaves(params)
    assert all(np.any(after[name] != before[name]) for name in frozen)


def test_cross_entropy_is_that_of_numpy_without_padding():
    rng = np.random.default_rng(0)
    logits, target = rng.normal(size=(2, 3, 5)).astype(np.float32), np.array([[4, 2, 0], [1, 0, 0]])
    loss, mask = step_lib.cross_entropy(jnp.asarray(logits), jnp.asarray(target))
    logs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(logs, target[..., None], -1)[..., 0] * (target != 0)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)
    np.testing.assert_array_equal(mask, target != 0)


def test_decoder_reads_the_target_one_place_late():
    np.testing.assert_array_equal(step_lib.shift_right(jnp.array([[7, 8, 1, 0]])), [[0, 7, 8, 1]])


def test_sums_are_split_by_source_and_kind(tiny, batch, advanced):
    _, sums = advanced
    logits = jax.jit(tiny.model.apply)(
        {'params': tiny.params(0)},
        batch['images'],
        batch['prompt'],
        step_lib.shift_right(batch['target']),
    )
    by_token, mask = step_lib.cross_entropy(logits, batch['target'])
    rows = np.asarray(by_token.sum(1))
    np.testing.assert_allclose(sums.source.loss, [rows[:2].sum(), rows[2:].sum()], rtol=1e-4)
    np.testing.assert_allclose(sums.kind.loss, [rows[:2].sum(), rows[2], rows[3]], rtol=1e-4)
    np.testing.assert_array_equal(sums.kind.tokens, [18, 3, 5])
    np.testing.assert_allclose(sums.loss, rows.sum() / mask.sum(), rtol=1e-4)
    values = step_lib.summary(jax.device_get(sums), ['arm', 'web'], KINDS, SPACES)
    np.testing.assert_allclose(values['source/web/loss'], rows[2:].sum() / 8, rtol=1e-4)
    assert values['kind/where/examples'] == 1 and 'action/web/dx_m' not in values


def test_accumulating_over_parts_changes_nothing(tiny, batch, tables, advanced):
    state, sums = advance(tiny, batch, tables, 2)
    for ours, theirs in zip(
        jax.tree.leaves((state.params, sums)), jax.tree.leaves((advanced[0].params, advanced[1]))
    ):
        np.testing.assert_allclose(ours, theirs, rtol=2e-3, atol=1e-5)


def test_errors_of_actions_are_in_physical_units(tiny, batch, tables, action_tokenizer):
    right = np.asarray(batch['target'])
    predicted = right.copy()
    # One bin further in dx, ten bins in drz, and the terminate flag the other way round.
    for place, bins in ((1, 1), (6, 10)):
        integer = action_tokenizer.bin_of_id[right[0, place]]
        predicted[0, place] = action_tokenizer.integer_ids[
            integer + bins if integer + bins < 256 else integer - bins
        ]
    predicted[0, 0] = action_tokenizer.terminate_ids[
        int(right[0, 0] == action_tokenizer.terminate_ids[0])
    ]
    predicted[1, 3] = np.flatnonzero(action_tokenizer.bin_of_id < 0)[-1]  # does not decode
    rows = action_metrics.action_rows(
        jnp.asarray(predicted), batch['target'], batch['source'], batch['kind'], tables
    )
    widths = ActionSpace.rt1_bounds().bin_widths
    np.testing.assert_array_equal(rows['examples'], [1, 1, 0, 0])
    np.testing.assert_array_equal(rows['decodable'], [1, 0, 0, 0])
    np.testing.assert_allclose(
        rows['error'][0], [widths[0], 0, 0, 0, 0, 10 * widths[5], 0], rtol=1e-4, atol=1e-7
    )
    np.testing.assert_array_equal(rows['correct'][0], [0, 0, 1, 1, 1, 1, 0, 1])
    np.testing.assert_array_equal(rows['error'][1:], 0)


def test_errors_of_robots_with_other_dimensions_do_not_meet(tokenizer, action_tokenizer):
    """An arm with a flag and seven dimensions beside a table with two, and coarser bins."""
    table = ActionTokenizer(ActionSpace.language_table(), tokenizer)
    spaces = {'arm': action_tokenizer.space, 'table': table.space}
    tables = ActionTables.create(tokenizer, ['arm', 'web', 'table'], KINDS, ACTING, spaces)
    target = np.zeros((4, TARGET_LENGTH), np.int32)
    target[0, :9] = [*action_tokenizer.encode([0, 0.5, 0, 0, 0, 0, 0, 1]), tokenizer.eos_id]
    target[1, :3] = [*table.encode([0.05, -0.1]), tokenizer.eos_id]
    target[2, :5] = [60, 61, *table.encode([0.0, 0.0]), tokenizer.eos_id]  # words, then an action
    target[3, :3] = [*table.encode([0.0, 0.0]), tokenizer.eos_id]
    predicted = target.copy()
    predicted[0, 7] = action_tokenizer.integer_ids[128]
    predicted[1, 0] = table.integer_ids[12]  # 2 cm, not 5 cm
    predicted[3, 1] = tokenizer.integer_ids[21]  # an integer, but none of this table's
    source, kind = jnp.array([0, 2, 2, 2]), jnp.zeros(4, jnp.int32)
    rows = action_metrics.action_rows(
        jnp.asarray(predicted), jnp.asarray(target), source, kind, tables
    )
    assert all(np.isfinite(value).all() for value in rows.values())
    np.testing.assert_array_equal(rows['examples'], [1, 1, 1, 1])
    np.testing.assert_array_equal(rows['decodable'], [1, 1, 1, 0])
    np.testing.assert_allclose(rows['error'][0, 6], 127 * 2 / 255, rtol=1e-5)
    np.testing.assert_allclose(rows['error'][1], [0.03, 0, 0, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_array_equal(rows['correct'][0], [1, 1, 1, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(rows['correct'][1:3, :3], [[0, 0, 1], [0, 1, 1]])
    np.testing.assert_array_equal(rows['correct'][1:, 3:], 0)


def test_flops_count_loops_in_full():
    w = jnp.ones((4, 8, 8))
    x = jnp.ones((2, 8))
    jaxpr = jax.make_jaxpr(lambda x: jax.lax.scan(lambda c, layer: (c @ layer, None), x, w)[0])(x)
    assert flops_lib.count_flops(jaxpr) == 4 * 2 * 2 * 8 * 8
