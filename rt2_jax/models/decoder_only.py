"""Decoder-only models: PaliGemma 1 and 2, and PaLM-E's layout.

PaLM-E: arXiv 2303.03378, of PaLM's layers (2204.02311); PaliGemma: 2407.07726 and 2412.03555.

Axes: B batch, F frames, N image tokens a frame, P prompt, S prefix (frames, bos, prompt, separator),
T queries, K keys, L layers, D width, V vocabulary, C columns of it.

Attention goes both ways within the prefix and back from the target (a prefix-LM). Prompts are padded on
the right; what is behind them has the positions that it would have without the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import embedding, gemma, layers, stacks, vit
from rt2_jax.models.decode_state import DecodeState, LayerCache, cache_length, extend_cache
from rt2_jax.nearest import check

Masks = tuple[jax.Array, jax.Array]  # float32 [B, 1, 1, T, K], of local and of global layers
_FAR = 1 << 30  # tokens; a window without an end


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(stacks.StackConfig):
    """The language model, as `config.model.text` has it.

    Attributes:
        attention: of each layer.
        block: 'gemma' (pre-norm), 'gemma2' (norms before and behind each part), or 'parallel' (PaLM:
            both parts on one norm, which has neither offset nor bias).
        activation: of `layers.ACTIVATIONS`.
        every: each how-many-eth layer is global.
        window: tokens that the others see.
        base: of the rotary rates.
    """

    attention: gemma.AttentionConfig
    block: str = 'gemma'
    activation: str = 'gelu'
    every: int = 1
    window: int = _FAR
    base: float = 10_000.0

    def norm(self) -> layers.RMSNorm:
        """A norm of this language model."""
        return layers.RMSNorm(self.dtype, offset=0.0 if self.block == 'parallel' else 1.0)


class Layer(nn.Module):
    """Attention and a gated hidden layer, one after the other or side by side."""

    config: DecoderConfig

    def setup(self) -> None:
        """Makes both parts and the norms that the block has."""
        config = self.config
        check('text.block', config.block, ('gemma', 'gemma2', 'parallel'))
        self.mixing = gemma.Attention(config.attention, config.width, config.dtype)
        self.mlp_block = layers.GatedMLP(config.mlp, config.dtype, config.activation)
        if config.block == 'parallel':
            self.norm = config.norm()
        else:
            self.attention_norm, self.mlp_norm = config.norm(), config.norm()
        if config.block == 'gemma2':
            self.attention_out_norm, self.mlp_out_norm = config.norm(), config.norm()

    def attend(
        self,
        x: jax.Array,
        is_global: jax.Array,
        positions: jax.Array,
        rates: jax.Array,
        masks: Masks,
    ) -> tuple[jax.Array, None]:
        """All tokens at once: x [B, T, D] to [B, T, D].

        Args:
            x: states.
            is_global: bool [], of this layer.
            positions: int32 [B, T].
            rates: of `gemma.rates`.
            masks: see `Masks`.
        """
        x, _ = self._all(x, is_global, positions, rates, masks)
        return x, None

    def prefill(
        self,
        x: jax.Array,
        is_global: jax.Array,
        positions: jax.Array,
        rates: jax.Array,
        masks: Masks,
    ) -> tuple[jax.Array, LayerCache]:
        """As `attend`, and keeps keys and values."""
        x, keys_values = self._all(x, is_global, positions, rates, masks)
        return x, LayerCache(*keys_values, is_global=is_global)

    def step(
        self,
        x: jax.Array,
        cache: LayerCache,
        index: jax.Array,
        positions: jax.Array,
        rates: jax.Array,
        masks: Masks,
    ) -> tuple[jax.Array, LayerCache]:
        """One token x [B, 1, D] at the cache's place `index`, int32 []."""
        y = self._normed(x)
        cache = cache.write(*self.mixing.keys_values(y, (positions, rates)), index)
        mask = gemma.select(cache.is_global, masks)
        mixed = self.mixing(y, (positions, rates), (cache.keys, cache.values), mask)
        return self._parts(x, y, mixed), cache

    def _all(
        self,
        x: jax.Array,
        is_global: jax.Array,
        positions: jax.Array,
        rates: jax.Array,
        masks: Masks,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """States, and keys and values."""
        y = self._normed(x)
        keys_values = self.mixing.keys_values(y, (positions, rates))
        mask = gemma.select(is_global, masks)
        mixed = self.mixing(y, (positions, rates), keys_values, mask)
        return self._parts(x, y, mixed), keys_values

    def _normed(self, x: jax.Array) -> jax.Array:
        return self.norm(x) if self.config.block == 'parallel' else self.attention_norm(x)

    def _parts(self, x: jax.Array, y: jax.Array, mixed: jax.Array) -> jax.Array:
        """Adds attention and hidden layer to x; y is the normed x."""
        if self.config.block == 'parallel':
            x += mixed + self.mlp_block(y)
        elif self.config.block == 'gemma2':
            x += self.attention_out_norm(mixed)
            x += self.mlp_out_norm(self.mlp_block(self.mlp_norm(x)))
        else:
            x += mixed
            x += self.mlp_block(self.mlp_norm(x))
        return layers.constrain(x, 'batch', 'length', 'width')


class DecoderOnly(nn.Module):
    """A `backbone.Backbone` of a ViT and a decoder.

    Attributes:
        vision: fields of `vit.ViTConfig`.
        text: fields of `DecoderConfig`.
        vocab: V.
        dtype: of matrix products.
        bos: id before a prompt; -1 for none.
        separator: id behind a prompt; -1 for none.
        scaled: whether embeddings are multiplied by sqrt(D).
        cap: of the logits; 0 for none.
        positions, positions_scale, prompt_positions, number_line, integers: as in `pali.PaLI`, for small
            models; their places are fixed, beside the rotary ones.
    """

    vision: Mapping
    text: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32
    bos: int = 2
    separator: int = 108
    scaled: bool = True
    cap: float = 0.0
    positions: str = 'none'
    positions_scale: float = 1.0
    prompt_positions: float = 0.0
    number_line: bool = False
    integers: tuple[int, ...] = ()

    def setup(self) -> None:
        """Makes the parts."""
        check('positions', self.positions, ('none', 'sincos'))
        vision = vit.ViTConfig.parse(self.vision, 'config.model.vision', dtype=self.dtype)
        config = DecoderConfig.parse(self.text, 'config.model.text', dtype=self.dtype)
        self.config = config
        self.tower = vit.ViT(vision)
        self.projection = layers.Linear((config.width,), ('vision', 'embed'), self.dtype, bias=True)
        self.embedding = embedding.Embedding(
            self.vocab, config.width, self.dtype, self.integers if self.number_line else ()
        )
        self.layers = stacks.stack(Layer, config, broadcast={'attend': 3, 'prefill': 3, 'step': 4})
        self.norm = config.norm()

    def __call__(
        self,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        columns: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing: logits float32 [B, T, V] or [B, T, C]; see `Backbone`.

        The prefix's end stands for the first of `target_in`.
        """
        prefix, valid = self._prefix(images, prompt)
        x = jnp.concatenate([prefix, self._embed(target_in[:, 1:])], axis=1)
        s, t = prefix.shape[1], target_in.shape[1] - 1
        valid_keys = jnp.concatenate([valid, jnp.ones((valid.shape[0], t), bool)], axis=1)
        positions = jnp.cumsum(valid_keys, axis=1) - 1
        masks = self._masks(positions, positions, valid_keys, jnp.arange(s + t) < s)
        x, _ = self.layers.attend(x, self._global_layers(), positions, self._rates(), masks)
        x = self.norm(x)
        states = jnp.concatenate([_last(x[:, :s], valid), x[:, s:]], axis=1)
        return layers.constrain(self._logits(states, columns), 'batch', 'length', 'vocab')

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> DecodeState:
        """Runs the prefix; see `Backbone`."""
        x, valid = self._prefix(images, prompt)
        positions = jnp.cumsum(valid, axis=1) - 1
        masks = self._masks(positions, positions, valid, jnp.ones(x.shape[1], bool))
        x, cache = self.layers.prefill(x, self._global_layers(), positions, self._rates(), masks)
        return DecodeState(
            cache=extend_cache(cache, max_length),
            valid=valid,
            index=jnp.zeros((), jnp.int32),
            first=_last(self.norm(x), valid)[:, 0],
        )

    def step(
        self, state: DecodeState, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes one token: logits float32 [B, V] or [B, C], and the state; see `Backbone`.

        The first token comes from the prefix's end, and `token` is not read for it.
        """
        valid, s = state.valid, state.valid.shape[1]
        place = jnp.maximum(state.index - 1, 0)
        length = cache_length(state.cache) - s
        target = jnp.broadcast_to(jnp.arange(length) <= place, (valid.shape[0], length))
        valid_keys = jnp.concatenate([valid, target], axis=1)
        keys = jnp.cumsum(valid_keys, axis=1) - 1
        query = valid.sum(1, keepdims=True) + place
        masks = self._masks(query, keys, valid_keys, jnp.zeros(valid_keys.shape[1], bool))
        x, cache = self.layers.step(
            self._embed(token[:, None]), state.cache, s + place, query, self._rates(), masks
        )
        x = jnp.where(state.index == 0, state.first, self.norm(x)[:, 0])
        return self._logits(x, columns), state.next(cache)

    def image_attention(
        self, intermediates: Mapping, images: jax.Array, prompt: jax.Array
    ) -> jax.Array:
        """Attention of the target to the image, [L, B, T, F, rows, columns]; see `Backbone`.

        The prefix's end is the first place of the target.
        """
        weights = intermediates['layers']['mixing']['weights'][0].mean((2, 3))
        grid = images.shape[1], *vit.grid(images.shape[2:4], self.vision['patch'])
        image, ends = math.prod(grid), (self.bos >= 0) + (self.separator >= 0)
        end = image + ends + (prompt != 0).sum(1) - 1
        first = jnp.take_along_axis(weights, end[None, :, None, None], axis=2)
        rest = weights[:, :, image + ends + prompt.shape[1] :]
        weights = jnp.concatenate([first, rest], axis=2)[..., :image]
        return weights.reshape(*weights.shape[:-1], *grid)

    def _prefix(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedded prefix [B, S, D], and which of it is no padding, bool [B, S]."""
        b, f = images.shape[:2]
        tokens = self.projection(self.tower(images.reshape(b * f, *images.shape[2:])))
        if self.positions == 'sincos':
            sides, patch = images.shape[2:4], self.vision['patch']
            tokens = vit.with_places(tokens, sides, patch, self.positions_scale)
        tokens = tokens.reshape(b, -1, self.config.width)
        ids, length = prompt, (prompt != 0).sum(1, keepdims=True)
        if self.separator >= 0:
            ids = jnp.pad(ids, ((0, 0), (0, 1)))
            ids = jnp.where(jnp.arange(ids.shape[1]) == length, self.separator, ids)
        if self.bos >= 0:
            ids = jnp.pad(ids, ((0, 0), (1, 0)), constant_values=self.bos)
        words = self._embed(ids)
        if self.prompt_positions:
            words = embedding.with_places(words, self.prompt_positions)
        x = jnp.concatenate([tokens, words], axis=1)
        valid = jnp.concatenate([jnp.ones(tokens.shape[:2], bool), ids != 0], axis=1)
        return layers.constrain(x, 'batch', 'length', 'width'), valid

    def _embed(self, ids: jax.Array) -> jax.Array:
        vectors = self.embedding.embed(ids)
        scale = jnp.asarray(math.sqrt(self.config.width), self.dtype)
        return vectors * scale if self.scaled else vectors

    def _rates(self) -> jax.Array:
        return gemma.rates(self.config.attention.head_dim, self.config.base)

    def _global_layers(self) -> jax.Array:
        return jnp.asarray(gemma.global_layers(self.config.depth, self.config.every))

    def _masks(
        self, queries: jax.Array, keys: jax.Array, valid: jax.Array, prefix: jax.Array
    ) -> Masks:
        """What layers see.

        Args:
            queries: positions int32 [B, T].
            keys: positions int32 [B, K].
            valid: which keys are no padding, bool [B, K].
            prefix: which keys are of the prefix, bool [K]; queries of it see all of it.
        """
        before = queries[:, :, None] - keys[:, None, :]
        free = jnp.zeros_like(before, bool)
        if queries.shape == keys.shape:
            free = (prefix[:, None] & prefix[None, :])[None]
        local, far = (
            (((before >= 0) & (before < reach)) | free) & valid[:, None, :]
            for reach in (self.config.window, _FAR)
        )
        mask = lambda seen: jnp.where(seen, 0.0, layers.NEGATIVE)[:, None, None]
        return mask(local), mask(far)

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return gemma.capped(self.embedding.logits(x, columns), self.cap)


def _last(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The last state of each row that is no padding, [B, 1, D] of [B, S, D]."""
    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)
