"""The state of a training run, made on the mesh: shapes, shardings, what a checkpoint holds, then
the rest.
"""

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
        params: parameters to start from instead of random ones (a tree of arrays on host or
            devices); top-level parts of the model that it lacks start at random, and so do the
            words that a longer vocabulary has behind theirs.

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
    expected, places = {}, {}
    for part in (part for part in nn.meta.unbox(shapes) if part in given):
        expected[part], places[part] = _of_fewer_words(
            shapes[part], shardings.params[part], sharding.named_leaves(given[part])
        )
    given = place_params(given, expected, places)
    whole = all(
        jax.tree.leaves(
            jax.tree.map(
                lambda x, y: x.shape == y.shape,
                expected,
                {p: nn.meta.unbox(shapes)[p] for p in expected},
            )
        )
    )
    return jax.jit(make, out_shardings=shardings, donate_argnums=0 if whole else ())(given)


def _over(made: jax.Array, given: jax.Array) -> jax.Array:
    """What is given, and behind it what was made."""
    if made.shape == given.shape:
        return given
    return jax.lax.dynamic_update_slice(made, given, (0,) * made.ndim)


def _of_fewer_words(boxed: Any, shardings: Any, given: dict[str, Any]) -> tuple[Any, Any]:
    """Shapes and shardings of a part, with as many rows of words as are given where these are fewer."""
    logical, unboxed = nn.get_partition_spec(boxed), nn.meta.unbox(boxed)

    def fewer(path, shape, names, where):
        have = tuple(getattr(given.get(sharding.parameter_name(path)), 'shape', shape.shape))
        if len(have) != len(shape.shape):
            return shape, where
        sizes, spec = list(shape.shape), list(where.spec)
        for axis, name in enumerate(names):
            if name == 'vocab' and have[axis] < sizes[axis]:
                sizes[axis], spec[axis] = have[axis], None
        where = jax.sharding.NamedSharding(where.mesh, jax.sharding.PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(tuple(sizes), shape.dtype), where

    pairs = jax.tree_util.tree_map_with_path(fewer, unboxed, logical, shardings)
    split = lambda i: jax.tree.map(
        lambda pair: pair[i], pairs, is_leaf=lambda x: isinstance(x, tuple)
    )
    return split(0), split(1)


def check_params(given: Any, expected: Any, what: str) -> None:
    """Compares names and shapes of two parameter trees.

    Raises:
        ValueError: they differ; the message lists what is missing, too much, or of another shape.
    """
    have = {name: tuple(x.shape) for name, x in sharding.named_leaves(given).items()}
    want = {name: tuple(x.shape) for name, x in sharding.named_leaves(expected).items()}
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


def place_params(given: Any, shapes: Any, shardings: Any, what: str = 'config.init_from') -> Any:
    """Puts parameters onto the mesh in the model's dtypes, reading of each what lies here.

    Args:
        given: tree of arrays, or of anything with a shape that gives what an index asks for.
        shapes, shardings: trees of what they become.
        what: who says what they are, for the error.

    Raises:
        ValueError: as `check_params`.
    """
    check_params(given, shapes, what)
    named = sharding.named_leaves(given)

    def one(path, shape, where):
        value = named[sharding.parameter_name(path)]
        return jax.make_array_from_callback(
            shape.shape, where, lambda index: np.asarray(value[index]).astype(shape.dtype)
        )

    return jax.tree_util.tree_map_with_path(one, shapes, shardings)


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
