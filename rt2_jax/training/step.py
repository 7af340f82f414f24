"""The training step: masked next-token cross-entropy, gradients, update, and sums for the log.

A model may have a loss of its own instead (`backbone.OwnLoss`).

Axes: B batch, T target, V vocabulary.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rt2_jax.models import backbone, efficientnet, layers
from rt2_jax.parallel.sharding import parameter_name
from rt2_jax.text.actions import ActionSpace
from rt2_jax.training import action_metrics
from rt2_jax.training.action_metrics import PAD, ActionSums, ActionTables
from rt2_jax.training.train_state import TrainState

Batch = dict[str, jax.Array]


@flax.struct.dataclass
class GroupSums:
    """Sums over examples, one entry a source, or one a kind.

    Attributes:
        loss: [N] float32, cross-entropy in nats, or a model's own loss.
        correct: [N] float32, target tokens that are the argmax; of its own loss, what is right.
        tokens: [N] float32, target tokens (padding excluded); of its own loss, the weights.
        examples: [N] float32, rows.
    """

    loss: jax.Array
    correct: jax.Array
    tokens: jax.Array
    examples: jax.Array


@flax.struct.dataclass
class Sums:
    """What one step or several steps measured.

    Attributes:
        source: by source.
        kind: by kind.
        steps: [] float32, how many steps these are.
        loss: [] float32, sum of each step's mean loss a token.
        gradient_norm: [] float32, sum of each step's global norm; 0 in evaluation.
        actions: by source; None without action tables.
    """

    source: GroupSums
    kind: GroupSums
    steps: jax.Array
    loss: jax.Array
    gradient_norm: jax.Array
    actions: ActionSums | None = None


def add(total: Sums | None, sums: Sums) -> Sums:
    """Adds the sums of one step to those of others, in float64 on the host."""
    sums = jax.tree.map(lambda x: np.asarray(x, np.float64), jax.device_get(sums))
    return sums if total is None else jax.tree.map(np.add, total, sums)


def shift_right(target: jax.Array) -> jax.Array:
    """The decoder's input [B,T] int32 for a target [B,T]: a pad id, then all tokens but the last."""
    return jnp.pad(target[:, :-1], ((0, 0), (1, 0)), constant_values=PAD)


def cross_entropy(logits: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy by token in float32, 0 where the target is padding.

    Args:
        logits: [B,T,V] any float dtype.
        target: [B,T] int32.

    Returns:
        loss [B,T] float32 in nats, mask [B,T] float32.
    """
    logits = logits.astype(jnp.float32)
    mask = (target != PAD).astype(jnp.float32)
    picked = jnp.take_along_axis(logits, target[..., None], axis=-1)[..., 0]
    return (jax.nn.logsumexp(logits, axis=-1) - picked) * mask, mask


def measure(
    logits: jax.Array, batch: Batch, tables: ActionTables | None, columns: Sequence[int] = ()
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None]:
    """The values of each row that `GroupSums` and `ActionSums` sum.

    Args:
        logits: [B,T,V], or [B,T,C] of some tokens; targets that are none of them do not count.
        batch: arrays by name.
        tables: for errors of actions in physical units.
        columns: ids of these C tokens; all V if empty.
    """
    labels = batch['target']
    if columns:
        # Numbered from 1, so that padding and all other tokens are 0 as before.
        number_of_token = np.zeros(max(columns) + 2, np.int32)
        number_of_token[list(columns)] = np.arange(1, len(columns) + 1)
        labels = jnp.asarray(number_of_token)[jnp.minimum(labels, max(columns) + 1)]
        logits = jnp.pad(logits, ((0, 0), (0, 0), (1, 0)), constant_values=layers.NEGATIVE)
    loss, mask = cross_entropy(logits, labels)
    predicted = _argmax(logits)
    correct = (predicted == labels) * mask
    if columns:
        predicted = jnp.array((PAD, *columns), jnp.int32)[predicted]
    rows = dict(
        loss=loss.sum(1),
        correct=correct.sum(1),
        tokens=mask.sum(1),
        examples=jnp.ones(loss.shape[0]),
    )
    if tables is None:
        return rows, None
    target, source, kind = (batch[name] for name in ('target', 'source', 'kind'))
    return rows, action_metrics.action_rows(predicted, target, source, kind, tables)


def _argmax(logits: jax.Array) -> jax.Array:
    """The first of the largest of [B,T,V]; on a CPU three times as fast as `jnp.argmax`."""
    vocabulary = jnp.arange(logits.shape[-1], dtype=jnp.int32)
    largest = logits == logits.max(axis=-1, keepdims=True)
    return jnp.where(largest, vocabulary, logits.shape[-1]).min(axis=-1)


def _sum(rows: dict[str, jax.Array], group: jax.Array, number: int) -> dict[str, jax.Array]:
    """Sums rows [B,...] by group [B] int32 to [number,...]."""
    return {name: jax.ops.segment_sum(value, group, number) for name, value in rows.items()}


def _sums(
    rows: dict[str, jax.Array],
    actions: dict[str, jax.Array] | None,
    batch: Batch,
    counts: tuple[int, int],
    gradient_norm: jax.Array,
) -> Sums:
    sources, kinds = counts
    return Sums(
        source=GroupSums(**_sum(rows, batch['source'], sources)),
        kind=GroupSums(**_sum(rows, batch['kind'], kinds)),
        steps=jnp.ones(()),
        loss=rows['loss'].sum() / jnp.maximum(rows['tokens'].sum(), 1.0),
        gradient_norm=gradient_norm,
        actions=ActionSums(**_sum(actions, batch['source'], sources)) if actions else None,
    )


def make_train_step(
    model: Any,
    optimizer: optax.GradientTransformation,
    counts: tuple[int, int],
    *,
    accumulate: int = 1,
    tables: ActionTables | None = None,
    frozen: Collection[str] = (),
) -> Callable[[TrainState, Batch], tuple[TrainState, Sums]]:
    """Returns step(state, batch) -> (state, sums), to be jitted with the state donated.

    The loss is the mean over all target tokens of the batch, so accumulating over parts changes
    nothing but memory.

    Args:
        model: module called as `model.apply({'params': p}, images, prompt, target_in) -> logits
            [B,T,V]`.
        optimizer: gradient transformation whose state `state.opt_state` is.
        counts: how many sources and kinds the batches have.
        accumulate: the batch is cut into this many parts, one after another, and their gradients
            added; the batch size must be divisible by it.
        tables: for errors of actions in physical units.
        frozen: names of frozen parameters; gradients stop there.
    """
    trains_otherwise = backbone.trains_otherwise(model)

    def loss_of(params: Any, batch: Batch, key: jax.Array | None) -> tuple[jax.Array, Any]:
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: jax.lax.stop_gradient(x) if parameter_name(path) in frozen else x,
            params,
        )
        writes = [efficientnet.STATISTICS]
        settings: dict[str, Any] = {'mutable': writes} if trains_otherwise else {}
        rngs = {} if key is None else {'rngs': {'dropout': key}}
        rows, actions, changes = _forward(model, params, batch, tables, **settings, **rngs)
        return rows['loss'].sum(), ((rows, actions), changes.get(efficientnet.STATISTICS, {}))

    gradient = jax.grad(loss_of, has_aux=True)

    def accumulated(params: Any, batch: Batch, key: jax.Array | None) -> tuple[Any, Any]:
        if accumulate == 1:
            return gradient(params, batch, key)
        # Strided parts, so that a part takes rows from every device that the batch lies on.
        parts = jax.tree.map(
            lambda x: x.reshape(-1, accumulate, *x.shape[1:]).swapaxes(0, 1), batch
        )

        def add_part(total: Any, part: tuple[Batch, jax.Array | None]) -> tuple[Any, Any]:
            grads, measured = gradient(params, *part)
            return jax.tree.map(jnp.add, total, grads), measured

        keys = None if key is None else jax.random.split(key, accumulate)
        zeros = jax.tree.map(jnp.zeros_like, params)
        grads, (rows, statistics) = jax.lax.scan(add_part, zeros, (parts, keys))
        rows = jax.tree.map(lambda x: x.swapaxes(0, 1).reshape(-1, *x.shape[2:]), rows)
        return grads, (rows, jax.tree.map(lambda x: x.mean(0), statistics))

    def train_step(state: TrainState, batch: Batch) -> tuple[TrainState, Sums]:
        inputs = {name: batch[name] for name in ('images', 'prompt', 'target', 'source', 'kind')}
        key = jax.random.fold_in(jax.random.key(0), state.step) if trains_otherwise else None
        grads, ((rows, actions), statistics) = accumulated(state.params, inputs, key)
        tokens = jnp.maximum(rows['tokens'].sum(), 1.0)
        grads = jax.tree.map(lambda g: g / tokens, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = _replaced(optax.apply_updates(state.params, updates), statistics)
        sums = _sums(rows, actions, batch, counts, optax.tree.norm(grads))
        state = TrainState(step=state.step + 1, params=params, opt_state=opt_state)
        return state, sums

    return train_step


def _forward(
    model: Any, params: Any, batch: Batch, tables: ActionTables | None, **settings: Any
) -> tuple[dict[str, jax.Array], dict[str, jax.Array] | None, Any]:
    """What `measure` returns of a model's call, and the collections that it wrote.

    Args:
        model: as of `make_train_step`.
        params: its parameters.
        batch: arrays by name.
        tables: for errors of actions in physical units.
        **settings: of `model.apply`.
    """
    target_in = shift_right(batch['target'])
    if tables is not None and tables.slots is not None:
        target_in = action_metrics.with_slots(target_in, batch, tables)
    inputs = batch['images'], batch['prompt'], target_in
    columns: Sequence[int] = ()
    if own_loss := backbone.has_own_loss(model):
        settings['method'], inputs = 'losses', (*inputs[:2], batch['target'])
    elif backbone.is_one_pass(model):
        settings['method'], columns = 'values', model.columns
    output = model.apply({'params': params}, *inputs, **settings)
    output, changes = output if 'mutable' in settings else (output, {})
    if own_loss:
        rows = dict(zip(('loss', 'correct', 'tokens'), output), examples=jnp.ones(len(output[0])))
        return rows, None, changes
    return *measure(output, batch, tables, columns), changes


def _replaced(params: Any, values: Any) -> Any:
    """Parameters with other values of some."""
    if not values:
        return params
    flat = flax.traverse_util.flatten_dict
    return flax.traverse_util.unflatten_dict(flat(params) | flat(values))


def make_eval_step(
    model: Any, counts: tuple[int, int], tables: ActionTables | None = None
) -> Callable[[Any, Batch], Sums]:
    """Returns step(params, batch) -> sums, to be jitted; arguments as of `make_train_step`."""

    def eval_step(params: Any, batch: Batch) -> Sums:
        rows, actions, _ = _forward(model, params, batch, tables)
        return _sums(rows, actions, batch, counts, jnp.zeros(()))

    return eval_step


def summary(
    sums: Sums, sources: Sequence[str], kinds: Sequence[str], spaces: Mapping[str, ActionSpace]
) -> dict[str, float]:
    """Means of the sums, for the log.

    Args:
        sums: on the host.
        sources: names, by source number.
        kinds: names, by kind number.
        spaces: action space of each source that has actions, by name.

    Returns:
        'loss' (mean over steps), 'accuracy', 'gradient_norm'; 'source/NAME/loss', '.../accuracy',
        '.../examples' for every source and kind ('kind/NAME/...') of which there were examples; and
        what `action_metrics.summary` returns.
    """
    values = {
        'loss': float(sums.loss / sums.steps),
        'gradient_norm': float(sums.gradient_norm / sums.steps),
        'accuracy': float(sums.source.correct.sum() / np.maximum(sums.source.tokens.sum(), 1.0)),
    }
    for group, of, names in (('source', sums.source, sources), ('kind', sums.kind, kinds)):
        for number, name in enumerate(names):
            if of.tokens[number]:
                values[f'{group}/{name}/loss'] = float(of.loss[number] / of.tokens[number])
                values[f'{group}/{name}/accuracy'] = float(of.correct[number] / of.tokens[number])
                values[f'{group}/{name}/examples'] = float(of.examples[number])
    if sums.actions is not None:
        values |= action_metrics.summary(sums.actions, sources, spaces)
    return values
