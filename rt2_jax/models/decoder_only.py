"""Decoder-only models that see before they speak: PaliGemma 1 and 2, and PaLM-E's layout.

PaLM-E: arXiv 2303.03378, of PaLM's layers (2204.02311); PaliGemma: 2407.07726 and 2412.03555.

Axes: B batch, F frames, N image tokens a frame, P prompt, S prefix (frames, bos, prompt, separator),
T target, D width, L layers, G heads of keys and values, K width of a head, V vocabulary.

Attention goes both ways within the prefix and back from the target (a prefix-LM). Prompts are padded on
the right; what is behind them has the positions that it would have without the padding.
"""

from __future__ import annotations

from collections.abc import Mapping
import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import gemma, layers, stacks, vit
from rt2_jax.models.parts import part
from rt2_jax.nearest import check


class Layer(nn.Module):
    """Attention and a gated hidden layer, one after the other or side by side.

    Attributes:
      attention: attributes of `gemma.Attention`.
      block: 'gemma' (pre-norm), 'gemma2' (norms before and behind each part), or 'parallel' (PaLM:
        both on one norm, which has neither offset nor bias).
    """

    width: int
    mlp: int
    dtype: layers.Dtype
    attention: Mapping[str, Any]
    block: str = 'gemma'
    activation: str = 'gelu'

    def setup(self):
        self.mixing = gemma.Attention(self.width, dtype=self.dtype, **self.attention)
        self.mlp_block = layers.GatedMLP(self.mlp, self.dtype, self.activation)
        offset = 0.0 if self.block == 'parallel' else 1.0
        names = {
            'gemma': ('attention_norm', 'mlp_norm'),
            'gemma2': ('attention_norm', 'attention_out_norm', 'mlp_norm', 'mlp_out_norm'),
            'parallel': ('norm',),
        }[check('text.block', self.block, ('gemma', 'gemma2', 'parallel'))]
        for name in names:
            setattr(self, name, layers.RMSNorm(self.dtype, offset=offset))

    def __call__(self, x, cache, index, positions, rates, masks):
        """All at once, or, with an `index`, one token against the cache's keys and values."""
        turn = positions, rates
        y = self.norm(x) if self.block == 'parallel' else self.attention_norm(x)
        keys, values = self.mixing.keys_values(y, turn)
        if index is not None:
            keys = jax.lax.dynamic_update_slice_in_dim(cache['keys'], keys, index, axis=1)
            values = jax.lax.dynamic_update_slice_in_dim(cache['values'], values, index, axis=1)
        cache = cache | {'keys': keys, 'values': values}
        mixed = self.mixing(y, turn, (keys, values), gemma.chosen(cache['kind'], masks))
        if self.block == 'parallel':
            x += mixed + self.mlp_block(y)
        elif self.block == 'gemma2':
            x += self.attention_out_norm(mixed)
            x += self.mlp_out_norm(self.mlp_block(self.mlp_norm(x)))
        else:
            x += mixed
            x += self.mlp_block(self.mlp_norm(x))
        return layers.boundary(x, 'batch', 'length', 'width'), cache


class DecoderOnly(nn.Module):
    """A tower and a decoder, with the interface of `pali.PaLI`.

    Attributes:
      vision: attributes of `vit.ViT`.
      text: `width`, `depth` and the attributes of `Layer`, `remat`, `unroll`; `every`: each how-many-eth
        layer is global, `window`: what the others see; `base`: of the rotary rates.
      vocab: number of tokens V.
      dtype: what matrix products are computed in.
      bos, separator: ids before and behind a prompt; -1 for none.
      scaled: whether word vectors are multiplied by sqrt(D).
      cap: of the logits; 0 for none.
    """

    vision: Mapping
    text: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32
    bos: int = 2
    separator: int = 108
    scaled: bool = True
    cap: float = 0.0

    def setup(self):
        text = dict(self.text)
        self.width, self.depth = text['width'], text.pop('depth')
        self.every, self.window = text.pop('every', 1), text.pop('window', 1 << 30)
        self.base = text.pop('base', 10_000.0)
        remat, unroll = text.pop('remat', 'none'), text.pop('unroll', 1)
        self.tower = part(vit.ViT, self.vision, 'config.model.vision', dtype=self.dtype)
        self.projection = layers.Linear((self.width,), ('vision', 'embed'), self.dtype, bias=True)
        self.embedding = layers.WordVectors(self.vocab, self.width, self.dtype)
        self.layers = stacks.stack(Layer, self.depth, remat, unroll, dtype=self.dtype, **text)
        offset = 0.0 if text.get('block') == 'parallel' else 1.0
        self.norm = layers.RMSNorm(self.dtype, offset=offset)

    def _words(self, ids: jax.Array) -> jax.Array:
        vectors = self.embedding.looked_up(ids)
        return vectors * jnp.asarray(math.sqrt(self.width), self.dtype) if self.scaled else vectors

    def _prefix(self, images: jax.Array, prompt: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Embedded prefix [B, S, D] and which of it there is, bool [B, S]."""
        b, f = images.shape[:2]
        tokens = self.projection(self.tower(images.reshape(b * f, *images.shape[2:])))
        tokens = tokens.reshape(b, -1, self.width)
        ids, length = prompt, (prompt != 0).sum(1, keepdims=True)
        if self.separator >= 0:
            ids = jnp.pad(ids, ((0, 0), (0, 1)))
            ids = jnp.where(jnp.arange(ids.shape[1]) == length, self.separator, ids)
        if self.bos >= 0:
            ids = jnp.pad(ids, ((0, 0), (1, 0)), constant_values=self.bos)
        x = jnp.concatenate([tokens, self._words(ids)], axis=1)
        valid = jnp.concatenate([jnp.ones(tokens.shape[:2], bool), ids != 0], axis=1)
        return layers.boundary(x, 'batch', 'length', 'width'), valid

    def _rates(self) -> jax.Array:
        return gemma.rates(self.text['attention']['head_dim'], self.base)

    def _kinds(self) -> dict[str, jax.Array]:
        return {'kind': jnp.asarray(gemma.pattern(self.depth, self.every))}

    def __call__(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """Teacher forcing; see `pali.PaLI`. The prefix's end stands for the first of `target_in`."""
        prefix, valid = self._prefix(images, prompt)
        x = jnp.concatenate([prefix, self._words(target_in[:, 1:])], axis=1)
        s, t = prefix.shape[1], target_in.shape[1] - 1
        there = jnp.concatenate([valid, jnp.ones((valid.shape[0], t), bool)], axis=1)
        positions = jnp.cumsum(there, axis=1) - 1
        x, _ = self.layers(
            x, self._kinds(), None, positions, self._rates(),
            self._masks(positions, positions, there, jnp.arange(s + t) < s),
        )  # fmt: skip
        x = self.norm(x)
        states = jnp.concatenate([_last(x[:, :s], valid), x[:, s:]], axis=1)
        return layers.boundary(self._logits(states), 'batch', 'length', 'vocab')

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> dict:
        """Runs the prefix, and keeps what `step` needs; see `pali.PaLI`."""
        x, valid = self._prefix(images, prompt)
        positions = jnp.cumsum(valid, axis=1) - 1
        masks = self._masks(positions, positions, valid, jnp.ones(x.shape[1], bool))
        x, cache = self.layers(x, self._kinds(), None, positions, self._rates(), masks)
        return {
            'layers': stacks.with_room(cache, max_length),
            'valid': valid,
            'first': _last(self.norm(x), valid)[:, 0],
            'index': jnp.zeros((), jnp.int32),
        }

    def step(
        self, cache: dict, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, dict]:
        """Decodes one token; see `pali.PaLI`. At first the prefix's end speaks, and `token` does not."""
        index, valid = cache['index'], cache['valid']
        s = valid.shape[1]
        place = jnp.maximum(index - 1, 0)
        length = stacks.places(cache['layers']) - s
        there = jnp.concatenate(
            [valid, jnp.broadcast_to(jnp.arange(length) <= place, (valid.shape[0], length))], axis=1
        )
        keys = jnp.cumsum(there, axis=1) - 1
        query = valid.sum(1, keepdims=True) + place
        masks = self._masks(query, keys, there, jnp.zeros(there.shape[1], bool))
        x, inner = self.layers(
            self._words(token[:, None]), cache['layers'], s + place, query, self._rates(), masks
        )
        state = jnp.where(index == 0, cache['first'], self.norm(x)[:, 0])
        return self._logits(state, columns), cache | {'layers': inner, 'index': index + 1}

    def image_attention(self, left: Mapping, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """Where each place of the target looked; see `pali.PaLI`. The prefix's end is the first of them."""
        weights = left['layers']['mixing']['weights'][0].mean((2, 3))
        grid = images.shape[1], *vit.grid(images.shape[2:4], self.vision['patch'])
        seen, around = math.prod(grid), (self.bos >= 0) + (self.separator >= 0)
        end = seen + around + (prompt != 0).sum(1) - 1
        first = jnp.take_along_axis(weights, end[None, :, None, None], axis=2)
        rest = weights[:, :, seen + around + prompt.shape[1] :]
        weights = jnp.concatenate([first, rest], axis=2)[..., :seen]
        return weights.reshape(*weights.shape[:-1], *grid)

    def _masks(
        self, queries: jax.Array, keys: jax.Array, there: jax.Array, prefix: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """What local and what global layers see, float32 [B, 1, 1, T, S].

        Args:
          queries, keys: positions [B, T], [B, S].
          there: which keys there are, [B, S].
          prefix: which keys are of the prefix, [S]; queries that are see all of it.
        """
        before = queries[:, :, None] - keys[:, None, :]
        free = jnp.zeros_like(before, bool)
        if queries.shape == keys.shape:
            free = (prefix[:, None] & prefix[None, :])[None]
        masks = []
        for reach in (self.window, 1 << 30):
            seen = (((before >= 0) & (before < reach)) | free) & there[:, None, :]
            masks.append(jnp.where(seen, 0.0, layers.NEGATIVE)[:, None, None])
        return tuple(masks)

    def _logits(self, x: jax.Array, columns: jax.Array | None = None) -> jax.Array:
        return gemma.capped(self.embedding.attend(x, columns), self.cap)


def _last(x: jax.Array, valid: jax.Array) -> jax.Array:
    """The last state that there is of each row, [B, 1, D] of [B, S, D]."""
    last = valid.shape[1] - 1 - jnp.argmax(valid[:, ::-1], axis=1)
    return jnp.take_along_axis(x, last[:, None, None], axis=1)
