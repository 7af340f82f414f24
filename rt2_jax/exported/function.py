"""A policy's answers as one function of weights, images and prompt, and that function in a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses
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
ANY = 'any'  # of batch sizes
OUTPUTS = {
    'tokens': 'int32 [B, T], 0 after the end',
    'lengths': 'int32 [B], tokens before the end',
    'log_probs': 'float32 [B, T], of each token among those that may stand there; 0 after the end',
    'entropies': 'float32 [B, T], nats, of that distribution; 0 after the end',
    'actions': 'float32 [B, L], what the last L tokens before the end say, in the units of `action`',
}
SAMPLED = tuple(name for name in OUTPUTS if name != 'actions')


@dataclasses.dataclass(frozen=True)
class Function:
    """An answer's function, as `jax.export` keeps it.

    Attributes:
        batch: rows that it takes, or 'any'.
        serialised: the file's contents.
    """

    batch: int | str
    serialised: bytes


def answering(
    policy: Policy, kind: Kind, convention: Convention
) -> Callable[..., dict[str, jax.Array]]:
    """A function (weights by name, images [B, F, S, S, 3], prompt [B, P]) -> `OUTPUTS`."""
    coder = policy.action_tokenizer

    def answer(weights: dict[str, jax.Array], images: jax.Array, prompt: jax.Array):
        params = flax.traverse_util.unflatten_dict(weights, sep='/')
        samples = policy.sampler.greedy(params, images, prompt, kind)
        found = {name: getattr(samples, name)[:, 0] for name in SAMPLED}
        if kind != Kind.TEXT:
            place = found['lengths'][:, None] - coder.length + jnp.arange(coder.length)
            ids = jnp.take_along_axis(found['tokens'], place, axis=1)
            found['actions'] = _values(coder, ids, convention)
        return found

    return answer


def _values(coder: ActionTokenizer, ids: jax.Array, convention: Convention) -> jax.Array:
    """Token ids int32 [B, L] to numbers float32 [B, L]: the flag, then the convention's numbers."""
    integers = jnp.asarray(coder.bin_of_id)[ids]
    flags = int(coder.space.terminate)
    centres = jnp.asarray(convention.centres().astype('float32'))
    values = centres[jnp.arange(len(coder.space.names)), integers[:, flags:]]
    terminate = (integers[:, :flags] == TERMINATE).astype(jnp.float32)
    return jnp.concatenate([terminate, values], axis=1)


def export(
    policy: Policy,
    kind: Kind,
    platforms: Sequence[str],
    batch_sizes: Sequence[int] | None,
    convention: Convention | None = None,
) -> list[Function]:
    """The functions of a kind of answer.

    Args:
        policy: whose answers.
        kind: of the answers.
        platforms: of `PLATFORMS`.
        batch_sizes: one function for each; None for a single one that takes any number of rows.
        convention: of the actions, none that needs memory; the robot's own by default.

    Raises:
        ValueError: the model can't be traced for any number of rows.
    """
    convention = convention or policy.convention()
    if batch_sizes is None:
        try:
            rows = jax.export.symbolic_shape('B')[0]
            return [Function(ANY, _exported(policy, kind, platforms, rows, convention))]
        except (jax.errors.InconclusiveDimensionOperation, TypeError) as error:
            # What a size that isn't known cannot do raises either.
            raise ValueError(
                f'this model cannot be exported for any number of rows; name them, as in '
                f'--batch_sizes=1,8: {error}'
            ) from error
    return [Function(n, _exported(policy, kind, platforms, n, convention)) for n in batch_sizes]


def _exported(
    policy: Policy, kind: Kind, platforms: Sequence[str], rows: Any, convention: Convention
) -> bytes:
    shapes = {
        name: jax.ShapeDtypeStruct(x.shape, x.dtype) for name, x in weights_of(policy).items()
    }
    side = policy.image_size
    images = jax.ShapeDtypeStruct((rows, policy.frames, side, side, 3), jnp.uint8)
    prompt = jax.ShapeDtypeStruct((rows, policy.prompt_length), jnp.int32)
    function = jax.jit(answering(policy, kind, convention))
    exported = jax.export.export(function, platforms=tuple(platforms))(shapes, images, prompt)
    return bytes(exported.serialize())


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
