"""A model and its weights as decoding reads them fastest: fewer bytes, each layer by itself.

A checkpoint's kernels become rows (`models/rows.py`) in bfloat16 or int8; norms, biases and positions stay
as they are. What words are looked up in and said by is never int8: an action reads a few rows of it, and
near bins have near rows (measured on the tabletop, half of what int8 changes of actions came from there).
Layers that lie in one array for training are taken apart where a turn of a loop would else copy its part.

qwix, which does the adapters, was tried for this: it finds a parameter by its identity where a product
takes it, which the casts and boundaries of these layers hide; and of its int8, XLA on a CPU writes every
kernel out in float32 before it multiplies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from rt2_jax.models import layers, rows
from rt2_jax.nearest import check
from rt2_jax.parallel import sharding

STORED = 'stored'
TYPES = {'bfloat16': jnp.bfloat16, 'int8': jnp.int8}
KINDS = (STORED, *TYPES)
_OTHERS = {'kernel': 'head', 'embedding': 'table'}  # parameters that no Linear has


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A parameter of the compact model.

    Attributes:
      name: of the checkpoint's parameter.
      layer: which part of its leading axis; None for all of it.
      shape, names: of that part, with the logical names of its axes.
      inputs: number of input axes of a kernel or table; 0 for what is kept as it is.
      use: 'product', 'head' (the output matrix, a kernel too) or 'table' (rows already); '' for others.
    """

    name: str
    layer: int | None
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    inputs: int
    use: str

    def order(self) -> tuple[int, ...]:
        """The axes as rows have them: layers, outputs, inputs."""
        lead = len(self.names[:1]) if self.names[:1] == ('layers',) else 0
        axes = list(range(lead, len(self.shape)))
        if self.use != 'table':
            axes = axes[self.inputs :] + axes[: self.inputs]
        return (*range(lead), *axes)


def apart(model: nn.Module, platform: str) -> nn.Module:
    """The model that takes compact weights on devices of a platform ('cpu', 'gpu', 'tpu')."""
    changed = (
        {'dtype': jnp.float32} if platform == 'cpu' else {}
    )  # all but its products is emulated
    if platform != 'tpu':  # which reads a layer where it lies, and compiles for long
        for field in dataclasses.fields(model):
            part = getattr(model, field.name)
            if isinstance(part, Mapping) and 'depth' in part:
                changed[field.name] = {**part, 'unroll': 0, 'remat': 'none'}
    return model.clone(**changed)


def shapes(model: nn.Module, kind: str, inputs: Sequence[Any], mesh: Mesh | None = None) -> Any:
    """Shapes, types and places of compact parameters.

    Args:
      model: of `apart`.
      kind: one of `TYPES`.
      inputs: images, prompt and target of the model, or their shapes.
      mesh: of devices of this process, over which the sharding table splits; None for the first one.

    Returns:
      A tree of `jax.ShapeDtypeStruct`.
    """
    found = {name: _shapes(entry, kind, mesh) for name, entry in _entries(model, inputs).items()}
    return _tree(found)


def compact(
    model: nn.Module, params: Any, kind: str, inputs: Sequence[Any], mesh: Mesh | None = None
) -> tuple[nn.Module, Any]:
    """The model and its parameters with weights of a kind.

    Args:
      model: as a checkpoint has it.
      params: its parameters, one of which is changed at a time.
      kind: of `KINDS`; 'stored' changes nothing.
      inputs, mesh: as for `shapes`.

    Raises:
      ValueError: an unknown kind.
    """
    check('weights', kind, KINDS)
    if kind == STORED:
        return model, params
    device = mesh.devices.flat[0] if mesh else jax.local_devices()[0]
    model = apart(model, device.platform)
    named, found = sharding.named_leaves(params), {}
    for name, entry in _entries(model, inputs).items():
        wanted = _shapes(entry, kind, mesh)
        dtype = (wanted[rows.VALUES] if entry.inputs else wanted).dtype
        places = jax.tree.map(lambda x: x.sharding, wanted)
        changed = jax.jit(_changed, static_argnums=(2, 3, 4), out_shardings=places)
        order = entry.order() if entry.inputs else None
        found[name] = changed(named[entry.name], entry.layer, order, entry.inputs, dtype)
    return model, _tree(found)


def restricted(params: Any, columns: Any) -> Any:
    """Compact parameters with nothing but some rows of the output matrix, where that is one of its own.

    What `step` then gives are the logits of these. To be made before a loop, which else would take the
    rows out of the whole in every turn.

    Args:
      params: any model's parameters.
      columns: int32 [C], token ids.

    Returns:
      The parameters; None where they are not of this kind.
    """
    head = params.get('head', {})
    if rows.VALUES not in head:
        return None
    return {**params, 'head': {name: jnp.take(x, columns, axis=0) for name, x in head.items()}}


def _entries(model: nn.Module, inputs: Sequence[Any]) -> dict[str, _Entry]:
    """Parameters of a model by name, from its shapes."""
    contracts = {}

    def note(call, args, settings, context):
        if isinstance(context.module, layers.Linear):
            contracts['/'.join(context.module.path)] = context.module.contract
        return call(*args, **settings)

    with nn.intercept_methods(note):
        boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    axes = sharding.named_leaves(nn.get_partition_spec(boxed))
    entries = {}
    for name, x in sharding.named_leaves(nn.meta.unbox(boxed)).items():
        module, _, own = name.rpartition('/')
        number = next((part for part in module.split('/') if part.isdigit()), None)
        use = 'product' if own == 'kernel' and module in contracts else _OTHERS.get(own, '')
        entries[name] = _Entry(
            name.replace(f'/{number}/', '/'),
            None if number is None else int(number),
            x.shape,
            tuple(axes[name]),
            contracts[module] if use == 'product' else int(bool(use)),
            use,
        )
    return entries


def _shapes(entry: _Entry, kind: str, mesh: Mesh | None) -> Any:
    device = mesh.devices.flat[0] if mesh else jax.local_devices()[0]
    where = lambda names: (
        NamedSharding(mesh, sharding.mesh_spec(PartitionSpec(*names)))
        if mesh
        else SingleDeviceSharding(device)
    )
    if not entry.inputs:
        return jax.ShapeDtypeStruct(entry.shape, jnp.float32, sharding=where(entry.names))
    order = entry.order()
    shape, names = (tuple(given[i] for i in order) for given in (entry.shape, entry.names))
    dtype = TYPES[kind] if entry.use == 'product' else jnp.bfloat16
    if entry.use == 'table' and device.platform == 'cpu':
        dtype = jnp.float32  # to look up in one of bfloat16, XLA would first make it that
    found = {rows.VALUES: jax.ShapeDtypeStruct(shape, dtype, sharding=where(names))}
    if dtype == jnp.int8:
        shape, names = shape[: -entry.inputs], names[: -entry.inputs]
        found[rows.SCALE] = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where(names))
    return found


def _changed(
    x: jax.Array, layer: Any, order: tuple[int, ...] | None, inputs: int, dtype: Any
) -> Any:
    """A parameter in its compact form. Compiled once for all layers, which are a traced number."""
    x = x if layer is None else jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
    if order is None:
        return x.astype(dtype)
    x = jnp.transpose(x, order)
    if dtype != jnp.int8:
        return {rows.VALUES: x.astype(dtype)}
    found = rows.quantized(x, inputs)
    return {rows.VALUES: found.values, rows.SCALE: found.scale}


def _tree(found: Mapping[str, Any]) -> Any:
    """Parameters by name as a tree; where rows have taken a kernel's place, its name is gone."""
    flat = {}
    for name, value in found.items():
        inner = value if isinstance(value, dict) else {None: value}
        for own, x in inner.items():
            flat[tuple(name.split('/')[:-1] + [own] if own else name.split('/'))] = x
    return flax.traverse_util.unflatten_dict(flat)
