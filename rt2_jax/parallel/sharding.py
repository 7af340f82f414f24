"""One table from the models' logical axis names to mesh axes, and what follows from it."""

from collections.abc import Iterator
import contextlib
from typing import Any

import flax.linen as nn
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
import numpy as np

from rt2_jax.nearest import nearest

# The only place where a logical axis meets a mesh axis. `None`: whole along that axis.
RULES = (
    # Of parameters and of activations.
    ('layers', None),
    ('heads', 'tensor'),
    ('kv_heads', None),  # few, or one
    ('head_dim', None),
    ('mlp', 'tensor'),
    ('vocab', 'tensor'),
    # Of parameters. `embed` is the width of the language model or the tower where a kernel has it.
    ('embed', 'fsdp'),
    ('vision', None),
    ('vector', None),
    ('patch', None),
    ('channels', None),  # of pictures
    ('positions', None),
    ('buckets', None),
    # Of activations.
    ('batch', ('data', 'fsdp')),
    ('rows', 'data'),  # of a batch, where its width is split over `fsdp`
    ('length', None),
    ('width', None),
)


@contextlib.contextmanager
def rules(mesh: Mesh) -> Iterator[None]:
    """Puts the table in force: activations that are named while this is open lie as it says.

    To be entered where a function is traced, in or around `jax.jit`.
    """
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh), nn.logical_axis_rules(RULES):
        yield


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of every array of a batch: the first axis over `data` and `fsdp`."""
    return NamedSharding(mesh, PartitionSpec(('data', 'fsdp')))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, PartitionSpec())


def mesh_spec(logical: PartitionSpec) -> PartitionSpec:
    """Translates logical axis names (one an array axis, or None) into mesh axes by `RULES`.

    Raises:
        ValueError: a name that `RULES` does not have.
    """
    table = dict(RULES)
    entries = []
    for name in logical:
        if name is not None and name not in table:
            raise ValueError(
                f'logical axis {name!r} is not in the sharding table{nearest(name, table)}'
            )
        entries.append(None if name is None else table[name])
    return PartitionSpec(*entries)


def parameter_shardings(boxed: Any, mesh: Mesh) -> Any:
    """Shardings for parameters as `eval_shape(model.init)` gives them, boxed with logical axes.

    Args:
        boxed: tree of shapes, where an entry may be an `nn.Partitioned`-like box that names its
            axes.
        mesh: the mesh that the table's axes belong to.

    Returns:
        The same tree without boxes, a `NamedSharding` for each array; arrays without names are
        replicated.

    Raises:
        ValueError: an axis that is not divisible by the mesh axes it is split over, with the
            parameter named.
    """
    logical = nn.get_partition_spec(boxed)
    shapes = nn.meta.unbox(boxed)

    def place(path: Any, shape: jax.ShapeDtypeStruct, names: PartitionSpec) -> NamedSharding:
        spec = mesh_spec(names)
        for size, name, axis in zip(shape.shape, names, spec):
            parts = mesh.shape[axis] if axis else 1
            if size % parts:
                raise ValueError(
                    f'parameter {parameter_name(path)} of shape {shape.shape}: its axis {name!r} of '
                    f'size {size} does not split over config.mesh.{axis}={parts}; '
                    + _remedy(name, size, axis, parts)
                )
        return NamedSharding(mesh, spec)

    return jax.tree_util.tree_map_with_path(place, shapes, logical)


def _remedy(name: str, size: int, axis: str, parts: int) -> str:
    """What to set where an axis of a parameter does not split over an axis of the mesh."""
    if name == 'vocab':
        padded = -(-size // parts) * parts
        return f'set config.model.vocab={padded}: rows that the tokenizer does not use do no harm'
    divisor = max(d for d in range(1, parts) if size % d == 0)
    return (
        f'take a divisor of {size} (config.mesh.{axis}={divisor}), or a size in config.model that is '
        f'a multiple of {parts}'
    )


def parameter_name(path: Any) -> str:
    """`encoder/layers/query/kernel` for a path of `jax.tree_util.tree_flatten_with_path`."""
    return '/'.join(
        str(getattr(key, 'key', getattr(key, 'name', getattr(key, 'idx', key)))) for key in path
    )


def named_leaves(tree: Any) -> dict[str, Any]:
    """Every leaf of a tree by its slash-separated name, in tree order."""
    return {
        parameter_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }


def optimizer_shardings(opt_state: Any, params: Any, shardings: Any, mesh: Mesh) -> Any:
    """Shardings of an optimizer state: each moment as its parameter, factors as its rows.

    Args:
        opt_state: tree of shapes from `eval_shape(optimizer.init)`.
        params: tree of shapes of the parameters.
        shardings: tree of `NamedSharding` of the parameters.
        mesh: the mesh.

    Returns:
        A tree of `NamedSharding` like `opt_state`; what belongs to no parameter (counts) is
        replicated.
    """
    names = named_leaves(params)
    specs = named_leaves(shardings)

    def place(path: Any, leaf: Any) -> NamedSharding:
        parts = parameter_name(path).split('/')
        for start in range(len(parts)):
            name = '/'.join(parts[start:])
            if name in names:
                return NamedSharding(
                    mesh,
                    _moment_spec(leaf.shape, names[name].shape, specs[name].spec, parts[:start]),
                )
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(place, opt_state)


def _moment_spec(
    shape: tuple[int, ...], parameter: tuple[int, ...], spec: PartitionSpec, prefix: list[str]
) -> PartitionSpec:
    entries = tuple(spec) + (None,) * (len(parameter) - len(spec))
    if shape == parameter:
        return PartitionSpec(*entries)
    if len(parameter) >= 2 and prefix and prefix[-1] in ('v_row', 'v_col'):
        # Adafactor factors over the two largest axes: v_row has lost the largest, v_col the second
        # largest.
        second, largest = np.argsort(parameter)[-2:]
        lost = largest if prefix[-1] == 'v_row' else second
        if shape == tuple(np.delete(parameter, lost)):
            return PartitionSpec(*np.delete(np.array(entries, dtype=object), lost))
    return PartitionSpec()
