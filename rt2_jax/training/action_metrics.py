"""Errors of predicted actions in physical units, measured inside the training step.

The argmax at each place of an action is compared with the action that was taken. Axes: B batch,
T target, V vocabulary, S sources, K kinds, D dimensions of the source that has most.
"""

from collections.abc import Collection, Mapping, Sequence

import flax
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

PAD = 0


@flax.struct.dataclass
class ActionTables:
    """What turns token ids at the places of an action back into physical values.

    Attributes:
        bin_of_id: [V] int32, the integer that a token stands for, -1 for other tokens.
        centres: [S,D,bins] float32, what an integer means by source and dimension, in that
            dimension's unit; NaN for integers and dimensions that a source doesn't have.
        terminate: [S] bool, the sources whose actions start with the terminate flag.
        acts: [K] bool, the kinds whose targets end with an action.
        slots: [1+D] int32, what the decoder reads in place of the number before, by place; None where
            it reads that number (see `decoding.grammar.Grammar.one_pass`).
    """

    bin_of_id: jax.Array
    centres: jax.Array
    terminate: jax.Array
    acts: jax.Array
    slots: jax.Array | None = None

    @classmethod
    def create(
        cls,
        tokenizer: Tokenizer,
        sources: Sequence[str],
        kinds: Sequence[str],
        acting_kinds: Collection[str],
        spaces: Mapping[str, ActionSpace],
        one_pass: bool = False,
    ) -> 'ActionTables | None':
        """The tables of a run; None where no source has actions.

        Args:
            tokenizer: of the run.
            sources: names, by the batch's source number.
            kinds: names, by the batch's kind number.
            acting_kinds: the kinds whose targets end with an action, as their sources declare.
            spaces: action space of each source that has actions, by name.
            one_pass: whether the numbers of an action are learnt without one another.
        """
        if not spaces:
            return None
        finest = max(spaces.values(), key=lambda space: space.bins)
        dimensions = max(len(space.names) for space in spaces.values())
        centres = np.full((len(sources), dimensions, finest.bins), np.nan, np.float32)
        terminate = np.zeros(len(sources), bool)
        for name, space in spaces.items():
            number = list(sources).index(name)
            centres[number, : len(space.names), : space.bins] = space.centres
            terminate[number] = space.terminate
        action_tokenizer = ActionTokenizer(finest, tokenizer)
        slots = jnp.asarray(action_tokenizer.integer_ids[: 1 + dimensions], jnp.int32)
        return cls(
            bin_of_id=jnp.asarray(action_tokenizer.bin_of_id),
            centres=jnp.asarray(centres),
            terminate=jnp.asarray(terminate),
            acts=jnp.array([kind in acting_kinds for kind in kinds]),
            slots=slots if one_pass else None,
        )


@flax.struct.dataclass
class ActionSums:
    """Sums over examples that end with an action, by source.

    Attributes:
        examples: [S] float32.
        decodable: [S] float32, examples where all of the source's dimensions are integers that
            decode.
        correct: [S,1+D] float32, equal tokens at each place of the action, the terminate flag
            first; 0 for places that a source doesn't have.
        error: [S,D] float32, absolute error of the decodable examples, in the dimensions' units.
    """

    examples: jax.Array
    decodable: jax.Array
    correct: jax.Array
    error: jax.Array


def with_slots(
    target_in: jax.Array, batch: Mapping[str, jax.Array], tables: ActionTables
) -> jax.Array:
    """The decoder's inputs with slots in place of an action's numbers.

    Args:
        target_in: [B,T] int32, the target shifted right.
        batch: 'target' [B,T], 'source' [B] and 'kind' [B], int32.
        tables: with slots.

    Returns:
        [B,T] int32.
    """
    target, source, kind = (batch[name] for name in ('target', 'source', 'kind'))
    end, numbers = (target != PAD).sum(1) - 1, _columns(source, tables).sum(1)
    place = jnp.arange(target.shape[1]) - (end - numbers)[:, None]
    # The first number is read behind what was before the action, and the end behind the last number.
    inside = tables.acts[kind][:, None] & (place > 0) & (place < numbers[:, None])
    assert tables.slots is not None
    slot = tables.slots[jnp.clip(place, 0, len(tables.slots) - 1)]
    return jnp.where(inside, slot, target_in)


def action_rows(
    predicted: jax.Array,
    target: jax.Array,
    source: jax.Array,
    kind: jax.Array,
    tables: ActionTables,
) -> dict[str, jax.Array]:
    """The values of each row that `ActionSums` sums by source; 0 for rows without an action.

    Args:
        predicted: [B,T] int32, argmax at each place of the target.
        target: [B,T] int32; an action is the last tokens before the end token.
        source: [B] int32.
        kind: [B] int32.
        tables: of this run's sources and kinds.
    """
    # Places are counted from the end, so that a dimension stands in the same column with a
    # terminate flag before it (column 0) or without.
    columns = _columns(source, tables)
    has = columns[:, 1:]
    end = (target != PAD).sum(1) - 1
    places = (end - 1 - has.sum(1))[:, None] + jnp.arange(columns.shape[1])
    places = jnp.clip(places, 0, target.shape[1] - 1)
    tokens, wanted = (jnp.take_along_axis(x, places, axis=1) for x in (predicted, target))
    is_action = tables.acts[kind] & (end >= columns.sum(1))
    bins, right = tables.bin_of_id[tokens[:, 1:]], tables.bin_of_id[wanted[:, 1:]]
    dimension = jnp.arange(has.shape[1])
    value = tables.centres[source[:, None], dimension, jnp.maximum(bins, 0)]
    error = jnp.abs(value - tables.centres[source[:, None], dimension, jnp.maximum(right, 0)])
    decodable = is_action & (~has | ((bins >= 0) & jnp.isfinite(value))).all(1)
    return dict(
        examples=is_action.astype(jnp.float32),
        decodable=decodable.astype(jnp.float32),
        correct=(is_action[:, None] & columns & (tokens == wanted)).astype(jnp.float32),
        error=jnp.where(decodable[:, None] & has, error, 0.0),
    )


def _columns(source: jax.Array, tables: ActionTables) -> jax.Array:
    """Which numbers the actions of sources [B] have, bool [B,1+D], the terminate flag first."""
    has = jnp.isfinite(tables.centres[..., 0])[source]
    return jnp.concatenate([tables.terminate[source][:, None], has], axis=1)


def summary(
    sums: ActionSums, sources: Sequence[str], spaces: Mapping[str, ActionSpace]
) -> dict[str, float]:
    """Means of the sums, for the log.

    Args:
        sums: on the host.
        sources: names, by source number.
        spaces: action space of each source that has actions, by name.

    Returns:
        'action/NAME/DIMENSION_UNIT' (mean absolute error), '.../terminate' (accuracy, where the
        space has the flag) and '.../decodable' (share), for sources with examples.
    """
    values = {}
    for name, space in spaces.items():
        number = list(sources).index(name)
        examples, decodable = sums.examples[number], sums.decodable[number]
        if examples and space.terminate:
            values[f'action/{name}/terminate'] = float(sums.correct[number, 0] / examples)
        if examples:
            values[f'action/{name}/decodable'] = float(decodable / examples)
        # A source with fewer dimensions than another leaves the rest of its row empty.
        for label, error in zip(space.labels, sums.error[number] if decodable else ()):
            values[f'action/{name}/{label}'] = float(error / decodable)
    return values
