"""A policy's answers as one function of weights, images and prompt, serialised by `jax.export`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax
import jax
import jax.export
import jax.numpy as jnp

from rt2_jax.decoding.grammar import Kind
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import Convention
from rt2_jax.text.actions import TERMINATE, ActionTokenizer

PLATFORMS = ('cpu', 'tpu', 'cuda', 'rocm')  # as jax.export calls them
ANY = 'any'  # the batch size of a function that takes any number of rows
OUTPUTS = {
    'tokens': 'int32 [B, T], 0 after the end',
    'lengths': 'int32 [B], tokens before the end',
    'log_probs': 'float32 [B, T], of each token among those that may stand there; 0 after the end',
    'entropies': 'float32 [B, T], nats, of that distribution; 0 after the end',
    'actions': 'float32 [B, L], what the last L tokens before the end say, in the units of `action`',
}
SAMPLED = tuple(name for name in OUTPUTS if name != 'actions')


def export(
    policy: Policy,
    kind: Kind,
    platforms: Sequence[str],
    batch_sizes: Sequence[int] | None,
    convention: Convention | None = None,
) -> dict[int | str, bytes]:
    """The serialised functions for a kind of answer, by batch size.

    Args:
        policy: whose answers.
        kind: of the answers.
        platforms: of `PLATFORMS`.
        batch_sizes: one function for each; None for a single one, `ANY`, that takes any number of rows.
        convention: of the actions, none that needs memory; the robot's own by default.

    Raises:
        ValueError: the model can't be traced for any number of rows.
    """
    function = jax.jit(_make_function(policy, kind, convention or policy.convention()))
    if batch_sizes is not None:
        return {size: _serialise(function, policy, platforms, size) for size in batch_sizes}
    try:
        rows = jax.export.symbolic_shape('B')[0]
        return {ANY: _serialise(function, policy, platforms, rows)}
    except (jax.errors.InconclusiveDimensionOperation, TypeError) as error:
        # Operations that an unknown size doesn't support raise either.
        raise ValueError(
            f'this model cannot be exported for any number of rows; name them, as in '
            f'--batch_sizes=1,8: {error}'
        ) from error


def weights_of(policy: Policy) -> dict[str, jax.Array]:
    """The parameters by name.

    Raises:
        ValueError: one is no plain array (quantised weights).
    """
    named = named_leaves(policy.params)
    flat = flax.traverse_util.flatten_dict(policy.params, sep='/')
    if others := sorted(set(flat) - set(named)):
        raise ValueError(f'{others[0]} is no plain array: export the weights as they were stored')
    return named


def _make_function(
    policy: Policy, kind: Kind, convention: Convention
) -> Callable[..., dict[str, jax.Array]]:
    """A function (weights by name, images [B, F * V, S, S, 3], prompt [B, P]) -> `OUTPUTS`."""
    tokenizer = policy.action_tokenizer

    def answer(
        weights: dict[str, jax.Array], images: jax.Array, prompt: jax.Array
    ) -> dict[str, jax.Array]:
        params = flax.traverse_util.unflatten_dict(weights, sep='/')
        samples = policy.sampler.greedy(params, images, prompt, kind)
        outputs = {name: getattr(samples, name)[:, 0] for name in SAMPLED}
        if kind != Kind.TEXT:
            length = tokenizer.length
            positions = outputs['lengths'][:, None] - length + jnp.arange(length)
            ids = jnp.take_along_axis(outputs['tokens'], positions, axis=1)
            outputs['actions'] = _values(tokenizer, ids, convention)
        return outputs

    return answer


def _values(tokenizer: ActionTokenizer, ids: jax.Array, convention: Convention) -> jax.Array:
    """Token ids int32 [B, L] to numbers float32 [B, L]: the flag, then the convention's numbers."""
    integers = jnp.asarray(tokenizer.bin_of_id)[ids]
    flags = int(tokenizer.space.terminate)
    centres = jnp.asarray(convention.centres().astype('float32'))
    values = centres[jnp.arange(len(tokenizer.space.names)), integers[:, flags:]]
    terminate = (integers[:, :flags] == TERMINATE).astype(jnp.float32)
    return jnp.concatenate([terminate, values], axis=1)


def _serialise(function: Any, policy: Policy, platforms: Sequence[str], rows: Any) -> bytes:
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights_of(policy).items()
    }
    side = policy.image_size
    images = jax.ShapeDtypeStruct((rows, policy.settings.pictures, side, side, 3), jnp.uint8)
    prompt = jax.ShapeDtypeStruct((rows, policy.prompt_length), jnp.int32)
    exported = jax.export.export(function, platforms=tuple(platforms))(shapes, images, prompt)
    return bytes(exported.serialize())
