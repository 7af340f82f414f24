"""A model and its weights as decoding reads them fastest: fewer bytes, each layer by itself.

A checkpoint's kernels become rows (`decoding/rows.py`) in bfloat16 or int8; norms, biases and positions
stay as they are. The embedding and the output matrix are never int8: an action reads a few of their
rows, and near bins have near rows (on the tabletop, half of what int8 changes of actions came from
there). Layers that lie in one array for training are unstacked where a turn of a loop would copy its
part.

qwix, which does the adapters, was tried for this: it finds a parameter by its identity where a product
takes it, which the casts and constraints of these layers hide; and XLA on a CPU writes every int8 kernel
of its out in float32 before it multiplies.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from rt2_jax.decoding import compact_layers, rows
from rt2_jax.models import embedding, layers
from rt2_jax.models.backbone import Backbone
from rt2_jax.models.intercepted import InterceptedModel
from rt2_jax.nearest import check
from rt2_jax.parallel import sharding

STORED = 'stored'
TYPES = {'bfloat16': jnp.bfloat16, 'int8': jnp.int8}
WEIGHTS = (STORED, *TYPES)


@dataclasses.dataclass(frozen=True)
class _Entry:
    """A parameter of the compact model.

    Attributes:
        name: of the checkpoint's parameter.
        layer: its place along the leading layer axis; None for all of the parameter.
        shape: of that part.
        names: logical names of its axes.
        inputs: number of input axes of a kernel; 0 for other parameters.
        use: 'linear', 'head' or 'embedding'; '' for other parameters.
    """

    name: str
    layer: int | None
    shape: tuple[int, ...]
    names: tuple[str | None, ...]
    inputs: int
    use: str

    def order(self) -> tuple[int, ...]:
        """The axes as rows have them: layers, outputs, inputs."""
        lead = 1 if self.names[:1] == ('layers',) else 0
        axes = list(range(lead, len(self.shape)))
        return (*range(lead), *axes[self.inputs :], *axes[: self.inputs])

    def dtype(self, weights: str, platform: str) -> Any:
        """The type that is decoded with."""
        if self.use == 'linear':
            return TYPES[weights]
        if self.use == 'embedding' and platform == 'cpu':
            return jnp.float32  # to take rows of a bfloat16 table, XLA would first convert it
        return jnp.bfloat16 if self.use else jnp.float32


def compact_model(model: Any, platform: str) -> Backbone:
    """The model that takes compact weights on devices of a platform ('cpu', 'gpu', 'tpu')."""
    changed: dict[str, Any] = {}
    if platform == 'cpu':
        changed['dtype'] = jnp.float32  # a CPU emulates bfloat16 in all but products
    if platform != 'tpu':  # a TPU reads a layer where it lies, and compiles for long
        for field in dataclasses.fields(model):
            part = getattr(model, field.name)
            if isinstance(part, Mapping) and 'depth' in part:
                changed[field.name] = {**part, 'unroll': 0, 'remat': 'none'}
    return InterceptedModel(model.clone(**changed), compact_layers.intercept)


def shapes(model: Backbone, weights: str, inputs: Sequence[Any], mesh: Mesh | None = None) -> Any:
    """Shapes, types and places of compact parameters.

    Args:
        model: of `compact_model`.
        weights: of `TYPES`.
        inputs: images, prompt and target of the model, or their shapes.
        mesh: of devices of this process, over which the sharding table splits; None for the first one.

    Returns:
        A tree of `jax.ShapeDtypeStruct`.
    """
    entries = _entries(model, inputs)
    return _tree({name: _shapes(entry, weights, mesh) for name, entry in entries.items()})


def compact(
    model: Backbone, params: Any, weights: str, inputs: Sequence[Any], mesh: Mesh | None = None
) -> tuple[Backbone, Any]:
    """The model and its parameters with compact weights.

    Args:
        model: as a checkpoint has it.
        params: its parameters, one of which is changed at a time.
        weights: of `WEIGHTS`; 'stored' changes nothing.
        inputs: as for `shapes`.
        mesh: as for `shapes`.

    Raises:
        ValueError: an unknown type of weights.
    """
    check('weights', weights, WEIGHTS)
    if weights == STORED:
        return model, params
    device = mesh.devices.flat[0] if mesh else jax.local_devices()[0]
    model = compact_model(model, device.platform)
    stored, converted = sharding.named_leaves(params), {}
    for name, entry in _entries(model, inputs).items():
        shape = _shapes(entry, weights, mesh)
        convert = jax.jit(
            _convert,
            static_argnums=(2, 3, 4),
            out_shardings=jax.tree.map(lambda x: x.sharding, shape),
        )
        order = entry.order() if entry.inputs else None
        dtype = entry.dtype(weights, device.platform)
        converted[name] = convert(stored[entry.name], entry.layer, order, entry.inputs, dtype)
    return model, _tree(converted)


def restricted(params: Any, columns: Any) -> Any:
    """Compact parameters with nothing but some rows of the output matrix.

    What `step` then gives are the logits of these. To be made before a loop, which else would take the
    rows out of the whole in every turn.

    Args:
        params: any model's parameters.
        columns: int32 [C], token ids.

    Returns:
        The parameters; None where they are not compact, or the output matrix is the embedding.
    """
    head = params.get('head', {})
    if rows.VALUES not in head:
        return None
    return {**params, 'head': {name: jnp.take(x, columns, axis=0) for name, x in head.items()}}


def _entries(model: Backbone, inputs: Sequence[Any]) -> dict[str, _Entry]:
    """Parameters of a model by name, from its shapes."""
    uses: dict[str, tuple[str, int]] = {}

    def note(
        call: Callable[..., Any],
        args: Sequence[Any],
        settings: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module, path = context.module, '/'.join(context.module.path)
        if isinstance(module, layers.Linear):
            uses[f'{path}/kernel'] = 'linear', module.contract
        elif isinstance(module, embedding.Head):
            uses[f'{path}/kernel'] = 'head', 1
        elif isinstance(module, embedding.Embedding):
            uses[f'{path}/embedding'] = 'embedding', 0
        return call(*args, **settings)

    with nn.intercept_methods(note):
        boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    axes = sharding.named_leaves(nn.get_partition_spec(boxed))
    entries = {}
    for name, x in sharding.named_leaves(nn.meta.unbox(boxed)).items():
        number = next((part for part in name.split('/') if part.isdigit()), None)
        use, contract = uses.get(name, ('', 0))
        entries[name] = _Entry(
            name=name.replace(f'/{number}/', '/'),
            layer=None if number is None else int(number),
            shape=x.shape,
            names=tuple(axes[name]),
            inputs=contract,
            use=use,
        )
    return entries


def _shapes(entry: _Entry, weights: str, mesh: Mesh | None) -> Any:
    device = mesh.devices.flat[0] if mesh else jax.local_devices()[0]
    dtype = entry.dtype(weights, device.platform)

    def struct(
        shape: tuple[int, ...], names: tuple[str | None, ...], dtype: Any
    ) -> jax.ShapeDtypeStruct:
        if not mesh:
            return jax.ShapeDtypeStruct(shape, dtype, sharding=SingleDeviceSharding(device))
        spec = sharding.mesh_spec(PartitionSpec(*names))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=NamedSharding(mesh, spec))

    if not entry.inputs:
        return struct(entry.shape, entry.names, dtype)
    order = entry.order()
    shape = tuple(entry.shape[i] for i in order)
    names = tuple(entry.names[i] for i in order)
    kernel = {rows.VALUES: struct(shape, names, dtype)}
    if dtype == jnp.int8:
        outputs = slice(len(order) - entry.inputs)
        kernel[rows.SCALE] = struct(shape[outputs], names[outputs], jnp.float32)
    return kernel


def _convert(
    x: jax.Array, layer: Any, order: tuple[int, ...] | None, inputs: int, dtype: Any
) -> Any:
    """A parameter in its compact form. Compiled once for all layers: `layer` is traced."""
    x = x if layer is None else jax.lax.dynamic_index_in_dim(x, layer, keepdims=False)
    if order is None:
        return x.astype(dtype)
    x = jnp.transpose(x, order)
    if dtype != jnp.int8:
        return {rows.VALUES: x.astype(dtype)}
    kernel = rows.quantize(x, inputs)
    return {rows.VALUES: kernel.values, rows.SCALE: kernel.scale}


def _tree(converted: Mapping[str, Any]) -> Any:
    """Parameters by name as a tree, with the arrays of `rows` in place of a kernel."""
    flat: dict[tuple[str, ...], Any] = {}
    for name, value in converted.items():
        module = tuple(name.split('/')[:-1])
        if isinstance(value, dict):
            flat |= {(*module, own): array for own, array in value.items()}
        else:
            flat[tuple(name.split('/'))] = value
    return flax.traverse_util.unflatten_dict(flat)
