"""The state of a training run, made on the mesh: shapes, shardings, checkpoint weights, then the rest."""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np
import optax

from rt2_jax.parallel import sharding
from rt2_jax.weights.tensors import Tensor

# Logical axes on which a run may have more than what it starts from: words, and channels of pictures.
GROWING = ('vocab', 'channels')


@flax.struct.dataclass
class TrainState:
    """Everything that a step changes; also a tree of its shapes or shardings.

    Attributes:
        step: [] int32, updates made so far.
        params: nested dict of arrays.
        opt_state: the optimizer's state.
    """

    step: Any
    params: Any
    opt_state: Any


@dataclasses.dataclass(frozen=True, eq=False)
class SavedArray:
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


def _init_function(model: Any, batch: Mapping[str, Any]) -> Callable[[jax.Array], Any]:
    def init(rng: jax.Array) -> Any:
        inputs = (
            jnp.zeros((1, *batch[name].shape[1:]), batch[name].dtype)
            for name in ('images', 'prompt', 'target')
        )
        return model.init(rng, *inputs)['params']

    return init


def parameter_shapes(model: Any, batch: Mapping[str, Any]) -> Any:
    """Shapes of the model's parameters, boxed with their logical axes; nothing is allocated.

    Args:
        model: the module.
        batch: arrays or shapes of one batch (images, prompt, target).
    """
    return jax.eval_shape(_init_function(model, batch), jax.random.PRNGKey(0))


def state_shardings(shapes: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A `TrainState` of shardings.

    Parameters are split by the sharding table, moments as their parameters; the rest is replicated.
    """
    params = nn.meta.unbox(shapes)
    of_params = sharding.parameter_shardings(shapes, mesh)
    opt_state = jax.eval_shape(optimizer.init, params)
    return TrainState(
        step=sharding.replicated(mesh),
        params=of_params,
        opt_state=sharding.optimizer_shardings(opt_state, params, of_params, mesh),
    )


def abstract_state(boxed: Any, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """The state as `ShapeDtypeStruct`s with shardings, onto which a checkpoint is restored.

    Args:
        boxed: as `parameter_shapes` gives them.
        optimizer: its `init` makes the optimizer state.
        mesh: where the arrays go.
    """
    params = nn.meta.unbox(boxed)
    shapes = TrainState(
        step=jax.ShapeDtypeStruct((), jnp.int32),
        params=params,
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
    batch: Mapping[str, Any],
    mesh: Mesh,
    seed: int,
    params: Any = None,
    shapes: Any = None,
) -> TrainState:
    """Makes the state, each array where it will live, so that no process holds the whole model.

    Args:
        model: the module.
        optimizer: its `init` makes the optimizer state.
        batch: arrays or shapes of one batch.
        mesh: where the arrays go.
        seed: of the initial parameters.
        params: parameters to start from, a tree as for `place`. Top-level parts of the model that
            it lacks start at random, and so does what it lacks of the axes `GROWING`.
        shapes: as `parameter_shapes` gives them, for a caller that has them: they take seconds.

    Raises:
        ValueError: `params` does not fit the model; names and shapes that differ are listed.
    """
    shapes = parameter_shapes(model, batch) if shapes is None else shapes
    shardings = state_shardings(shapes, optimizer, mesh)
    init = _init_function(model, batch)

    def make(loaded: Any) -> TrainState:
        made = nn.meta.unbox(init(jax.random.PRNGKey(seed)))
        made |= {part: jax.tree.map(grow, x, made[part]) for part, x in loaded.items()}
        return TrainState(
            step=jnp.zeros((), jnp.int32), params=made, opt_state=optimizer.init(made)
        )

    params = params or {}
    boxed = {part: x for part, x in shapes.items() if part in params}
    targets = target_shapes(params, boxed, {part: shardings.params[part] for part in boxed})
    # An array that grows is no buffer to reuse.
    grows = _sizes(targets) != _sizes(nn.meta.unbox(boxed))
    loaded = place(params, targets, 'config.init_from')
    return jax.jit(make, out_shardings=shardings, donate_argnums=() if grows else 0)(loaded)


def _sizes(tree: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(x.shape) for name, x in sharding.named_leaves(tree).items()}


def grow(loaded: jax.Array, made: jax.Array) -> jax.Array:
    """`loaded`, with what is behind it in `made` where that is longer."""
    if made.shape == loaded.shape:
        return loaded
    return jax.lax.dynamic_update_slice(made, loaded, (0,) * made.ndim)


def target_shapes(params: Any, boxed: Any, shardings: Any) -> Any:
    """Shapes and shardings onto which `params` is placed.

    Axes of `GROWING` are cut to the checkpoint's size where that is smaller.
    """
    named = sharding.named_leaves(params)

    def target(
        path: Any, shape: jax.ShapeDtypeStruct, axes: Sequence[str], where: NamedSharding
    ) -> jax.ShapeDtypeStruct:
        sizes, spec = list(shape.shape), list(where.spec)
        saved = getattr(named.get(sharding.parameter_name(path)), 'shape', ())
        for axis, (name, size) in enumerate(zip(axes, saved)):
            if name in GROWING and size < sizes[axis]:
                sizes[axis], spec[axis] = size, None
        where = NamedSharding(where.mesh, PartitionSpec(*spec))
        return jax.ShapeDtypeStruct(tuple(sizes), shape.dtype, sharding=where)

    logical = nn.get_partition_spec(boxed)
    return jax.tree_util.tree_map_with_path(target, nn.meta.unbox(boxed), logical, shardings)


def check_params(params: Any, expected: Any, what: str) -> None:
    """Compares names and shapes of two parameter trees.

    Args:
        params: the checkpoint's.
        expected: the model's.
        what: where `params` comes from, for the error.

    Raises:
        ValueError: they differ; the message lists what is missing, too much, or of another shape.
    """
    have, want = _sizes(params), _sizes(expected)
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


def place(params: Any, targets: Any, what: str = 'the parameters') -> Any:
    """Puts parameters on their devices, in their dtypes.

    Args:
        params: tree of arrays, or of arrays that are not read yet (`SavedArray`,
            `weights.tensors.Tensor`), of which each process reads what lies on its devices.
        targets: tree of `jax.ShapeDtypeStruct` with shardings.
        what: where `params` comes from, for the error.

    Raises:
        ValueError: as `check_params`.
    """
    check_params(params, targets, what)
    named = sharding.named_leaves(params)
    saved = _read_saved(named, sharding.named_leaves(targets))

    def put(path: Any, target: jax.ShapeDtypeStruct) -> jax.Array:
        name = sharding.parameter_name(path)
        if name in saved:
            return saved[name]
        value = named[name]
        if isinstance(value, jax.Array):
            return jax.device_put(value.astype(target.dtype), target.sharding)
        if isinstance(value, Tensor) and not value.take:
            value = value.read()  # once, not for each device
        return jax.make_array_from_callback(
            target.shape,
            target.sharding,
            lambda index: np.asarray(value[index]).astype(target.dtype),
        )

    return jax.tree_util.tree_map_with_path(put, targets)


def _read_saved(named: dict[str, Any], targets: dict[str, Any]) -> dict[str, jax.Array]:
    """The parameters that lie in checkpoints; those of one checkpoint are read together."""
    by_reader: dict[Any, dict[str, jax.ShapeDtypeStruct]] = {}
    for name, value in named.items():
        if isinstance(value, SavedArray):
            by_reader.setdefault(value.read, {})[name] = targets[name]
    return {name: x for read, some in by_reader.items() for name, x in read(some).items()}


def cast_kernels(params: Any, dtype: Any) -> Any:
    """Casts kernels to the dtype of their matrix products; the rest stays.

    The model casts them at each use, so this changes no result, and halves what inference in
    bfloat16 keeps and reads. Takes arrays or `jax.ShapeDtypeStruct`s.
    """

    def cast(path: Any, x: Any) -> Any:
        if not sharding.parameter_name(path).endswith('kernel'):
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            return x.update(dtype=dtype)
        return x.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def count_parameters(params: Any) -> int:
    """How many numbers the parameters hold."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(params))
