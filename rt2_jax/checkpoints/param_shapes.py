"""Shapes, dtypes and shardings of a model's parameters, from its config."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from rt2_jax.data.data_config import count_pictures
from rt2_jax.models import backbone
from rt2_jax.models.backbone import Backbone
from rt2_jax.parallel import sharding
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import adapters, train_state as state_lib


def shapes(config: Any, tokenizer: Tokenizer, mesh: Mesh | None = None) -> Any:
    """Shapes, dtypes and shardings of a policy's parameters; kernels in the dtype of their products.

    Args:
        config: a run's config.
        tokenizer: of the run.
        mesh: of devices of this process, over which the sharding table splits them; by default all are
            on the first device.

    Returns:
        A tree of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: a parameter that doesn't split over the mesh.
    """
    boxed, dtype = _boxed(config, tokenizer)
    used = state_lib.cast_kernels(nn.meta.unbox(boxed), dtype)
    if mesh is None:
        where = SingleDeviceSharding(jax.local_devices()[0])
        return jax.tree.map(lambda x: x.update(sharding=where), used)
    shardings = sharding.parameter_shardings(boxed, mesh)
    return jax.tree.map(lambda x, s: x.update(sharding=s), used, shardings)


def stored_layout(config: Any, tokenizer: Tokenizer) -> dict[str, tuple]:
    """Shape and logical axes of each parameter that a run of this config saves, by name."""
    return _layout(_boxed(config, tokenizer, stored=True)[0])


def named_shapes(model: Mapping[str, Any], image_size: int | None) -> dict[str, tuple[int, ...]]:
    """Shapes of a model's parameters by name, from its `config.model` or parts of it.

    Args:
        model: `config.model`; parts that are missing of PaLI, or of RT-1 where a `tower` is named and no
            model, get a small size.
        image_size: side of the frames, pixels.
    """
    return {name: shape for name, (shape, _) in named_layout(model, image_size).items()}


def named_layout(model: Mapping[str, Any], image_size: int | None) -> dict[str, tuple]:
    """As `named_shapes`, with the logical axes."""
    part: dict[str, Any] = dict(width=8, depth=1, heads=1, head_dim=8, mlp=8)
    vision = dict(width=8, depth=1, heads=1, mlp=8, patch=8)
    config: dict[str, Any] = dict(
        name='pali', vision=vision, encoder=part, decoder=part, vocab=8
    ) | dict(model)
    if 'tower' in model and 'name' not in model:
        model = dict(name='rt1', decoder=part, vocab=8) | dict(model)
        config |= model
    config = {k: v for k, v in config.items() if k != 'image_size'} | dict(dtype='float32')
    if config['name'] != 'pali':
        config = {k: v for k, v in config.items() if k in model or k == 'dtype'}
    side = image_size or 4 * config['vision'].get('patch', 8)
    built = backbone.build(config, config.get('vocab', 8))
    ids = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    images = jax.ShapeDtypeStruct((1, 1, side, side, 3), jnp.uint8)
    boxed = jax.eval_shape(built.init, jax.random.key(0), images, ids, ids)['params']
    return _layout(boxed)


def random(config: Any, tokenizer: Tokenizer, seed: int = 0) -> Any:
    """Random weights, as a run of this config starts with."""
    model, inputs = _model(config, tokenizer)
    zeros = [jnp.zeros(x.shape, x.dtype) for x in inputs]
    initialise = jax.jit(lambda key: nn.meta.unbox(model.init(key, *zeros)['params']))
    return initialise(jax.random.key(seed))


def _boxed(config: Any, tokenizer: Tokenizer, stored: bool = False) -> tuple[Any, Any]:
    """Shapes of the parameters, boxed with their logical axes, and the model's dtype."""
    model, inputs = _model(config, tokenizer)
    if stored:
        model = adapters.add_adapters(model, config)
    key = _TraceKey((repr(model), tokenizer.integer_ids.tobytes()), inputs, model)
    # A tree of its own for each caller.
    return jax.tree.map(lambda x: x, _traced(key)), model.dtype


@dataclasses.dataclass(frozen=True)
class _TraceKey:
    """A model and shapes of its inputs, compared by what they say: modules have no hash."""

    name: tuple
    inputs: tuple
    model: Any = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=16)
def _traced(key: _TraceKey) -> Any:
    """Shapes of a model's parameters. Tracing takes a second, and a policy asks for them twice."""
    return jax.eval_shape(key.model.init, jax.random.key(0), *key.inputs)['params']


def _layout(boxed: Any) -> dict[str, tuple]:
    names = sharding.named_leaves(nn.get_partition_spec(boxed))
    shapes = sharding.named_leaves(nn.meta.unbox(boxed))
    return {name: (x.shape, names[name]) for name, x in shapes.items()}


def _model(config: Any, tokenizer: Tokenizer) -> tuple[Backbone, tuple]:
    """The model and the shapes of one row of its inputs."""
    model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids.tolist())
    return model, inputs(config)


def inputs(config: Any) -> tuple[jax.ShapeDtypeStruct, ...]:
    """Shapes of one row of a model's inputs: images, prompt, target."""
    data = config.data
    images = (1, count_pictures(data), data.image_size, data.image_size, 3)
    text = jax.ShapeDtypeStruct((1, data.prompt_length), jnp.int32)
    return jax.ShapeDtypeStruct(images, jnp.uint8), text, text
