"""The state of a training run, made on the mesh: shapes, shardings, what a checkpoint holds, then
the rest.
"""

from collections.abc import Callable
import dataclasses
from typing import Any

from absl import logging
import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from rt2_jax.parallel import sharding
from rt2_jax.weights.tensors import Tensor


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes.

    Attributes:
        step: [] int32, updates made so far.
        params: nested dict of arrays.
        opt_state: the optimizer's state.
        rng: [2] uint32, the run's key; a step folds its number in.
    """

    step: jax.Array
    params: Any
    opt_state: Any
    rng: jax.Array


@dataclasses.dataclass(frozen=True, eq=False)
class Stored:
    """A parameter of a checkpoint that is not read yet.

    Attributes:
        name: slash-separated.
        shape, dtype: as it is saved.
        read: from name -> `jax.ShapeDtypeStruct` with a sharding to name -> array, for any of the
            checkpoint's parameters; each process reads what lies on its devices. All processes of a
            sharding call it together.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[dict[str, jax.ShapeDtypeStruct]], dict[str, jax.Array]]


def _init_function(model: Any, batch: dict[str, Any]):
    def init(rng):
        inputs = (
            jnp.zeros((1, *batch[name].shape[1:]), batch[name].dtype)
            for name in ('images', 'prompt', 'target')
        )
        return model.init(rng, *inputs)['params']

    return init


def parameter_shapes(model: Any, batch: dict[str, Any]) -> Any:
    """Shapes of the model's parameters, still boxed with their logical axes; nothing is allocated.

    Args:
        model: the module.
        batch: arrays or shapes of one batch (images, prompt, target).
    """
    return jax.eval_shape(_init_function(model, batch), jax.random.PRNGKey(0))


def state_shardings(shapes: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A `TrainState` of shardings: parameters by the table, moments as their parameters, the rest
    replicated.
    """
    params = nn.meta.unbox(shapes)
    of_params = sharding.parameter_shardings(shapes, mesh)
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(
        step=sharding.replicated(mesh),
        params=of_params,
        rng=sharding.replicated(mesh),
        opt_state=sharding.optimizer_shardings(opt_state, params, of_params, mesh),
    )


def abstract_state(
    model: Any, optimizer: optax.GradientTransformation, batch: dict[str, Any], mesh: Mesh
) -> TrainState:
    """The state as `ShapeDtypeStruct`s with shardings: what a checkpoint is restored onto."""
    boxed = parameter_shapes(model, batch)
    params = nn.meta.unbox(boxed)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
        rng=jax.ShapeDtypeStruct((2,), jnp.uint32),
        opt_state=jax.eval_shape(optimizer.init, params),
    )
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        shapes,
        state_shardings(boxed, optimizer, mesh),
    )


def init_state(
    model: Any,
    optimizer: optax.GradientTransformation,
    batch: dict[str, Any],
    mesh: Mesh,
    seed: int,
    params: Any = None,
) -> TrainState:
    """Makes the state, each array where it will live, so that no process holds the whole model.

    Args:
        model: the module.
        optimizer: its `init` makes the optimizer state.
        batch: arrays or shapes of one batch.
        mesh: where the arrays go.
        seed: of the initial parameters and of the run.
        params: parameters to start from instead of random ones, a tree as for `place_params`;
            top-level parts of the model that it lacks start at random, and so do the words that a
            longer vocabulary has behind theirs.

    Raises:
        ValueError: `params` does not fit the model; names and shapes that differ are listed.
    """
    shapes = parameter_shapes(model, batch)
    shardings = state_shardings(shapes, optimizer, mesh)
    init = _init_function(model, batch)

    def make(given):
        rng = jax.random.PRNGKey(seed)
        made = nn.meta.unbox(init(rng))
        made |= {part: jax.tree.map(_over, made[part], x) for part, x in given.items()}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=made,
            opt_state=optimizer.init(made),
            rng=jax.random.fold_in(rng, 1),
        )

    given = params or {}
    boxed = {part: x for part, x in shapes.items() if part in given}
    onto = _with_words_of(given, boxed, {part: shardings.params[part] for part in boxed})
    # What grows cannot be given back in the place of what was taken.
    whole = _sizes(onto) == _sizes(nn.meta.unbox(boxed))
    given = place_params(given, onto, 'config.init_from')
    return jax.jit(make, out_shardings=shardings, donate_argnums=0 if whole else ())(given)


def _sizes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in sharding.named_leaves(tree).items()}


def _over(made: jax.Array, given: jax.Array) -> jax.Array:
    """What is given, and behind it what was made."""
    if made.shape == given.shape:
        return given
    return jax.lax.dynamic_update_slice(made, given, (0,) * made.ndim)


def _with_words_of(given: Any, boxed: Any, shardings: Any) -> Any:
    """Shapes with their places, as many rows of words as are given where these are fewer."""
    named = sharding.named_leaves(given)

    def one(path, shape, names, where):
        sizes, spec = list(shape.shape), list(where.spec)
        have = getattr(named.get(sharding.parameter_name(path)), 'shape', ())
        for axis, (name, rows) in enumerate(zip(names, have)):
            if name == 'vocab' and rows < sizes[axis]:
                sizes[axis], spec[axis] = rows, None
        where = jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(tuple(sizes), shape.dtype, sharding=where)

    logical = nn.get_partition_spec(boxed)
    return jax.tree_util.tree_map_with_path(one, nn.meta.unbox(boxed), logical, shardings)


def check_params(given: Any, expected: Any, what: str) -> None:
    """Compares names and shapes of two parameter trees.

    Raises:
        ValueError: they differ; the message lists what is missing, too much, or of another shape.
    """
    have, want = _sizes(given), _sizes(expected)
    lines = [
        f'  {name}: the model has {want[name]}, the checkpoint has none'
        for name in want
        if name not in have
    ]
    lines += [
        f'  {name}: the checkpoint has {have[name]}, the model has none'
        for name in have
        if name not in want
    ]
    lines += [
        f'  {name}: the model has {want[name]}, the checkpoint {have[name]}'
        for name in want
        if name in have and want[name] != have[name]
    ]
    if lines:
        raise ValueError(
            f'{what} does not fit the model of this config, {len(lines)} parameters differ:\n'
            + '\n'.join(lines)
        )


def place_params(given: Any, onto: Any, what: str = 'the parameters') -> Any:
    """Puts parameters where they shall lie, in the types that they shall have.

    Args:
        given: tree of arrays, or of what is not read yet (`Stored`, `pretrained.tensors.Tensor`): of
            that each process reads what lies on its devices.
        onto: tree of `jax.ShapeDtypeStruct` with shardings.
        what: who says what they are, for the error.

    Raises:
        ValueError: as `check_params`.
    """
    check_params(given, onto, what)
    named = sharding.named_leaves(given)
    restored = _restored(named, sharding.named_leaves(onto))

    def one(path, to):
        name = sharding.parameter_name(path)
        if name in restored:
            return restored[name]
        value = named[name]
        if isinstance(value, jax.Array):
            return jax.device_put(value.astype(to.dtype), to.sharding)
        if isinstance(value, Tensor) and not value.take:
            value = value.read()  # once, not for each device
        return jax.make_array_from_callback(
            to.shape, to.sharding, lambda index: np.asarray(value[index]).astype(to.dtype)
        )

    return jax.tree_util.tree_map_with_path(one, onto)


def _restored(named: dict[str, Any], onto: dict[str, Any]) -> dict[str, jax.Array]:
    """The parameters that checkpoints have, those of one checkpoint read together."""
    wanted: dict[Any, dict[str, jax.ShapeDtypeStruct]] = {}
    for name, value in named.items():
        if isinstance(value, Stored):
            wanted.setdefault(value.read, {})[name] = onto[name]
    return {name: x for read, some in wanted.items() for name, x in read(some).items()}


def as_used(params: Any, dtype: Any) -> Any:
    """Kernels in the type that they are multiplied in, the rest as it is.

    The model casts them at each use, so this changes no result, and halves what inference in
    bfloat16 keeps and reads. Takes arrays or `jax.ShapeDtypeStruct`s.
    """

    def one(path, x):
        if not sharding.parameter_name(path).endswith('kernel'):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return x.update(dtype=dtype)
        return x.astype(dtype)

    return jax.tree_util.tree_map_with_path(one, params)


def count_parameters(params: Any) -> int:
    """How many numbers the parameters hold."""
    number = sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
    logging.info('%.3f M parameters', number / 1e6)
    return number


def without_none(tree: Any) -> Any:
    """A tree as nested dicts, without the fields that are None, which Orbax doesn't write."""

    def kept(node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        return {key: kept(value) for key, value in node.items() if value is not None}

    return kept(flax.serialization.to_state_dict(tree))


def with_none(expected: Any, restored: Any) -> Any:
    """What was written of `without_none(expected)`, with the fields that are None there."""
    if not isinstance(expected, dict):
        return restored
    return {
        key: None if value is None else with_none(value, restored.get(key, {}))
        for key, value in expected.items()
    }
