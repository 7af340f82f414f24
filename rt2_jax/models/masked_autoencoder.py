"""Masked autoencoding of pictures (MAE, arXiv 2111.06377), how VC-1 (2303.18240) learns to see.

The tower sees a few patches; a small decoder says what the others look like from the tower's tokens and
from where these lie. No words, no actions. Of several frames the last counts.

Axes: B batch, F frames, H and W pixels, P prompt, T target, N patches, K patches that are shown, D width of
the decoder, C numbers of a patch: rows, columns, RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import layers, pixels, stacks, vit

_EPSILON = 1e-6  # of a patch's variance


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(stacks.StackConfig):
    """The decoder, as `config.model.decoder` has it.

    Attributes:
        heads: of the attention.
    """

    heads: int


class MaskedAutoencoder(nn.Module):
    """A `backbone.OwnLoss` of a ViT, which a policy keeps, and a decoder, which it doesn't.

    Attributes:
        vision: fields of `vit.ViTConfig`, with the stem 'patch': others look beyond a patch.
        decoder: fields of `DecoderConfig`.
        vocab: not used.
        masked: share of the patches that is hidden, rounded down.
        normed: whether a patch is compared after its own mean and deviation are taken out.
        dtype: of matrix products.
    """

    vision: Mapping
    decoder: Mapping
    vocab: int = 0
    masked: float = 0.75
    normed: bool = True
    dtype: layers.Dtype = jnp.float32

    def setup(self) -> None:
        """Makes the parts.

        Raises:
            ValueError: a stem that looks beyond a patch, or a share that hides all or nothing.
        """
        config = vit.ViTConfig.parse(self.vision, 'config.model.vision', dtype=self.dtype)
        if config.stem != 'patch':
            raise ValueError(
                f'config.model.vision.stem is {config.stem!r}; masked patches need the stem '
                "'patch': through others a patch is seen in its neighbours"
            )
        self.patch, self.scale = config.patch, config.pixels
        self.tower = vit.ViT(config)
        own = DecoderConfig.parse(self.decoder, 'config.model.decoder', dtype=self.dtype)
        decoder = vit.ViTConfig(patch=config.patch, **vars(own))
        self.width = decoder.width
        self.decoder_embedding = layers.Linear(
            (decoder.width,), ('vision', 'embed'), self.dtype, bias=True
        )
        init = layers.with_axes(nn.initializers.normal(0.02), (None, 'embed'))
        self.mask_token = self.param('mask_token', init, (1, decoder.width), jnp.float32)
        self.decoder_layers = stacks.stack(vit.Block, decoder, broadcast={'__call__': 0})
        self.decoder_norm = layers.LayerNorm(self.dtype, decoder.epsilon)
        self.decoder_head = layers.Linear(
            (3 * config.patch**2,), ('embed', 'patch'), jnp.float32, bias=True
        )

    def __call__(self, images: jax.Array, prompt: jax.Array, target: jax.Array) -> jax.Array:
        """What the hidden patches look like to the model.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], not read.
            target: int32 [B, T], not read.

        Returns:
            Float32 [B, N, C].
        """
        return self.predict(images[:, -1], self._order(images))

    def losses(
        self, images: jax.Array, prompt: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """See `backbone.OwnLoss`: mean squared errors over hidden patches; nothing counts as right."""
        order, picture = self._order(images), images[:, -1]
        predicted = self.predict(picture, order)
        error = jnp.square(predicted - self.truth(picture)).mean(-1)
        hidden = order[:, self._shown(order.shape[1]) :]
        loss = jnp.take_along_axis(error, hidden, axis=1).mean(1)
        return loss, jnp.zeros_like(loss), jnp.ones_like(loss)

    def predict(self, picture: jax.Array, order: jax.Array) -> jax.Array:
        """Tower and decoder.

        Args:
            picture: uint8 [B, H, W, 3].
            order: int32 [B, N], numbers of the patches: the first K are shown.

        Returns:
            Float32 [B, N, C] of all patches in their places.
        """
        shown = self._shown(order.shape[1])
        x = self.decoder_embedding(self.tower(picture, order[:, :shown]))
        hidden = jnp.broadcast_to(
            self.mask_token.astype(self.dtype), (len(x), order.shape[1] - shown, self.width)
        )
        x = jnp.concatenate([x, hidden], axis=1)
        # Back to their places.
        x = jnp.take_along_axis(x, jnp.argsort(order, axis=1)[..., None], axis=1)
        rows, columns = vit.grid(picture.shape[1:3], self.patch)
        x += vit.sincos_positions(rows, columns, self.width).astype(self.dtype)
        x, _ = self.decoder_layers(layers.constrain(x, 'batch', 'length', 'width'), None)
        return self.decoder_head(self.decoder_norm(x).astype(jnp.float32))

    def truth(self, picture: jax.Array) -> jax.Array:
        """What `predict` should say of uint8 [B, H, W, 3]."""
        x = vit.space_to_depth(pixels.SCALES[self.scale](picture), self.patch)
        x = x.reshape(len(x), -1, x.shape[-1])
        if not self.normed:
            return x
        # As torch has it: by one less than the numbers of a patch.
        variance = x.var(-1, keepdims=True, ddof=1)
        return (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(variance + _EPSILON)

    def _shown(self, patches: int) -> int:
        """K."""
        shown = int(patches * (1 - self.masked) + 1e-9)
        if not 0 < shown < patches:
            raise ValueError(
                f'config.model.masked is {self.masked}; of {patches} patches {shown} would be shown'
            )
        return shown

    def _order(self, images: jax.Array) -> jax.Array:
        """A permutation of the patches for each row, int32 [B, N]."""
        rows, columns = vit.grid(images.shape[2:4], self.patch)
        drawn = self.has_rng('dropout')
        key = self.make_rng('dropout') if drawn else jax.random.key(0)
        return jnp.argsort(jax.random.uniform(key, (len(images), rows * columns)), axis=1)
