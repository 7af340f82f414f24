"""The image towers that a policy or a pretraining objective may have, by name.

Axes: B images, H and W pixels, M places or image tokens, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import efficientnet, layers, resnet, stacks, vit
from rt2_jax.nearest import check


@dataclasses.dataclass(frozen=True)
class _Kind:
    """A kind of tower.

    Attributes:
        config: its fields, a config's `model.vision`.
        module: takes the config.
        running: whether it has running statistics.
    """

    config: type[stacks.Config]
    module: Any
    running: bool


_KINDS = {
    'efficientnet': _Kind(efficientnet.EfficientNetConfig, efficientnet.EfficientNet, True),
    'resnet': _Kind(resnet.ResNetConfig, resnet.ResNet, True),
    'vit': _Kind(vit.ViTConfig, vit.ViT, False),
}
ALONE = ('resnet', 'vit')  # see pictures without a sentence


def config_of(kind: str) -> type[stacks.Config]:
    """The fields of a kind of tower.

    Raises:
        ValueError: no such kind.
    """
    return _KINDS[check('model.tower', kind, _KINDS)].config


def make(kind: str, fields: Mapping, dtype: layers.Dtype, name: str = 'tower') -> Any:
    """A tower.

    Args:
        kind: 'efficientnet', 'resnet' or 'vit'.
        fields: of its config.
        dtype: of matrix products.
        name: of its parameters.

    Raises:
        ValueError: no such kind, or no such field.
    """
    config = config_of(kind).parse(fields, 'config.model.vision', dtype=dtype)
    return _KINDS[kind].module(config, name=name)


def features(tower: Any, images: jax.Array, sentence: jax.Array | None = None) -> jax.Array:
    """What a tower sees.

    Args:
        tower: as `make` makes it.
        images: uint8 [B, H, W, 3 or more].
        sentence: a vector an image, [B, any width], for towers that are conditioned on one.

    Returns:
        [B, M, C], in rows from the top left.
    """
    conditioned = isinstance(tower, efficientnet.EfficientNet)
    x = tower(images, sentence) if conditioned else tower(images)
    return x.reshape(x.shape[0], -1, x.shape[-1])


def untrained(kind: str) -> tuple[str, ...]:
    """Patterns of names of the parameters that no gradient changes: running statistics."""
    return (f'/({"|".join(efficientnet.RUNNING)})$',) if _KINDS[kind].running else ()


class AttentionPool(nn.Module):
    """One vector an image: what a learned query attends to, and a hidden layer (arXiv 2106.04560).

    Attributes:
        heads: of the attention.
        mlp: width of the hidden layer.
        dtype: of matrix products.
    """

    heads: int
    mlp: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, M, C] to [B, C]."""
        width = x.shape[-1]
        head_dim = width // self.heads
        init = layers.with_axes(nn.initializers.normal(width**-0.5), (None, 'embed'))
        query = self.param('query', init, (1, width), jnp.float32).astype(self.dtype)
        query = jnp.broadcast_to(query, (x.shape[0], 1, width))
        attention = layers.Attention(
            width,
            self.heads,
            head_dim,
            self.dtype,
            scale=head_dim**-0.5,
            bias=True,
            name='attention',
        )
        y = attention(query, attention.keys_values(x))[:, 0]
        z = layers.LayerNorm(self.dtype, name='norm')(y)
        return y + layers.MLP(self.mlp, self.dtype, name='mlp')(z[:, None])[:, 0]
