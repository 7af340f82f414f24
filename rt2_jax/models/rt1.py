"""RT-1 (arXiv 2212.06817) and RT-1-X (2310.08864): a policy that writes actions alone, in one pass.

An EfficientNet that the instruction conditions (FiLM) and a TokenLearner (2106.11297) make a few tokens of
each frame; behind them stand the slots of that frame's action, whose vectors are zero, so that a decoder
fills all slots of all frames at once. The public versions differ in what slots may see and in the hidden
layer; the fields say which.

Axes: B batch, F frames, H and W pixels, P prompt, S numbers of an action, I image tokens a frame, N tokens
of the sequence (F times I and the slots), M places of the tower's map, D width, C values of a slot, T target,
V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax.models import efficientnet, embedding, layers, painted_points, sentence, stacks, towers
from rt2_jax.models.decode_state import DecodeState
from rt2_jax.nearest import check

MASKS = ('images', 'images_and_slots')
LANGUAGES = ('film', 'token')


@dataclasses.dataclass(frozen=True, kw_only=True)
class DecoderConfig(stacks.StackConfig):
    """The decoder, as `config.model.decoder` has it.

    Attributes:
        heads: of the attention.
        head_dim: width of a head.
        hidden: 'linear', one product with a bias and nothing behind it, as RT-1 has; or 'swiglu', a
            gated hidden layer `mlp` wide, as RT-1-X has.
        dropout: of attention and hidden layers, in training.
    """

    heads: int
    head_dim: int
    hidden: str = 'swiglu'
    dropout: float = 0.1


class Layer(nn.Module):
    """A pre-norm layer."""

    config: DecoderConfig

    @nn.compact
    def __call__(self, x: jax.Array, scanned: None, mask: jax.Array) -> tuple[jax.Array, None]:
        """Maps [B, N, D] to [B, N, D]; the mask is float32 [1, 1, N, N], added to the logits."""
        config = self.config
        attention = layers.Attention(
            config.width,
            config.heads,
            config.head_dim,
            config.dtype,
            scale=1 / math.sqrt(config.head_dim),
            bias=True,
            dropout=config.dropout,
            name='attention',
        )
        y = layers.LayerNorm(config.dtype, name='attention_norm')(x)
        x += attention(y, attention.keys_values(y), mask)
        y = layers.LayerNorm(config.dtype, name='mlp_norm')(x)
        if check('decoder.hidden', config.hidden, ('linear', 'swiglu')) == 'swiglu':
            y = layers.GatedMLP(config.mlp, config.dtype, 'silu', name='mlp')(y)
        else:
            y = layers.Linear(
                (config.width,), ('embed', 'mlp'), config.dtype, bias=True, name='mlp'
            )(y)
        x += nn.Dropout(config.dropout, deterministic=not self.has_rng('dropout'))(y)
        return layers.constrain(x, 'batch', 'length', 'width'), scanned


class TokenLearner(nn.Module):
    """A few tokens of a map, each a mean over places with weights of its own (version 1.1).

    Attributes:
        tokens: I.
        hidden: width of the layer that computes the weights.
        dtype: of matrix products.
    """

    tokens: int
    hidden: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B F, M, D] to [B F, I, D]."""
        y = layers.LayerNorm(self.dtype, name='norm')(x)
        y = layers.Linear((self.hidden,), ('embed', 'vision'), self.dtype, bias=True, name='wi')(y)
        y = layers.Linear((self.tokens,), ('vision', 'vector'), self.dtype, bias=True, name='wo')(
            nn.gelu(y)
        )
        weights = jax.nn.softmax(y.astype(jnp.float32), axis=1)
        self.sow('intermediates', 'weights', weights)
        return jnp.einsum('bmi,bmd->bid', weights.astype(self.dtype), x)


class Positions(nn.Module):
    """A learned vector of each place in the sequence.

    Attributes:
        length: of the longest sequence.
        dtype: of the vectors.
    """

    length: int
    dtype: layers.Dtype

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [B, N, D] to [B, N, D]."""
        width = x.shape[-1]
        init = layers.with_axes(nn.initializers.normal(width**-0.5), ('positions', 'embed'))
        table = self.param('kernel', init, (self.length, width), jnp.float32)
        init = layers.with_axes(nn.initializers.zeros, ('vector',))
        bias = self.param('bias', init, (width,), jnp.float32)
        return x + (table[: x.shape[1]] + bias).astype(self.dtype)


def attention_mask(frames: int, image_tokens: int, slots: int, sees: str) -> np.ndarray:
    """What each place of the sequence sees.

    No slot sees a slot, not even itself: none depends on what another says.

    Args:
        frames: F.
        image_tokens: I.
        slots: of an action.
        sees: what later image tokens see of a frame: its 'images', as in JAX's RT-1-X, or its
            'images_and_slots', as in TensorFlow's RT-1, where the slots' places so pass something on.

    Returns:
        bool [N, N], queries first.
    """
    check('mask', sees, MASKS)
    places = np.arange(frames * (image_tokens + slots))
    is_slot = places % (image_tokens + slots) >= image_tokens
    earlier = places[None, :] <= places[:, None]
    hidden = is_slot[None, :] & (is_slot[:, None] if sees == 'images_and_slots' else True)
    return earlier & ~hidden


class RT1(nn.Module):
    """A `backbone.OnePass` of an image tower, RT-1's own or another, and a decoder.

    The instruction comes as a sentence's vector, float [B, any width], or as a prompt's tokens: then
    the sentence is the mean of its words' vectors in a frozen table, which stands in for the sentence
    encoder that RT-1 has.

    RT-2 (arXiv 2307.15818, appendix on baselines) is compared with this policy on the ViT of VC-1 and on the
    ResNet of R3M, both of them trained on with it, and the sentence as one more token of the image.

    Attributes:
        vision: fields of the tower's config.
        decoder: fields of `DecoderConfig`.
        vocab: V, the tokenizer's.
        dtype: of matrix products.
        frames: F of the longest window.
        slots: of an action.
        numbers: S, the first of the slots that are used; all if 0. Public weights have slots for
            moving the base behind those of the arm.
        bins: C.
        image_tokens: I.
        learner: width of TokenLearner's hidden layer.
        mask: see `attention_mask`.
        words: width of the table of words.
        ordered: see `sentence.of_words`.
        tower: 'efficientnet', which the sentence conditions too, 'vit' or 'resnet'; see `towers`.
        language: how the sentence comes to the map: 'film', as in RT-1, or as one 'token' beside it.
        points: whether the prompt's numbers are points that are painted into a fourth channel of the
            image, and no words: MOO (arXiv 2303.00905), see `painted_points`.
        dead_embedding: whether there is an embedding of actions that nothing reads, as TensorFlow's
            RT-1 has: it multiplies it by zeros.
        integers: the token id of each integer 0, 1, ...; their own numbers if empty.
    """

    vision: Mapping
    decoder: Mapping
    vocab: int
    dtype: layers.Dtype = jnp.float32
    frames: int = 6
    slots: int = 11
    numbers: int = 0
    bins: int = 256
    image_tokens: int = 8
    learner: int = 64
    mask: str = 'images'
    words: int = 512
    ordered: bool = False
    tower: str = 'efficientnet'
    language: str = 'film'
    points: bool = False
    dead_embedding: bool = False
    integers: tuple[int, ...] = ()

    def setup(self) -> None:
        """Makes the parts."""
        decoder = DecoderConfig.parse(self.decoder, 'config.model.decoder', dtype=self.dtype)
        width, dtype = decoder.width, self.dtype
        self.embedding = embedding.Embedding(self.vocab, self.words, dtype)
        self.eyes = towers.make(self.tower, self.vision, dtype, name='tower')
        self.projection = layers.Linear((width,), ('vision', 'embed'), dtype)
        if check('config.model.language', self.language, LANGUAGES) == 'film':
            self.film = efficientnet.FiLM(dtype)
        else:
            self.sentence_projection = layers.Linear((width,), ('vision', 'embed'), dtype)
        self.token_learner = TokenLearner(self.image_tokens, self.learner, dtype)
        self.token_projection = layers.Linear((width,), ('vision', 'embed'), dtype, bias=True)
        self.positions = Positions(self.frames * (self.image_tokens + self.slots), dtype)
        self.layers = stacks.stack(Layer, decoder, broadcast={'__call__': 1})
        if self.dead_embedding:
            self.action_embedding = layers.Linear((width,), ('vocab', 'vision'), dtype, bias=True)
        self.head = layers.Linear((self.bins,), ('embed', 'vocab'), jnp.float32, bias=True)

    @property
    def action_length(self) -> int:
        """S."""
        return self.numbers or self.slots

    @property
    def untrained(self) -> tuple[str, ...]:
        """Patterns of names: the table of words, and statistics."""
        return '^embedding/', *towers.untrained(self.tower)

    @property
    def columns(self) -> tuple[int, ...]:
        """The token id of each of the C values."""
        return self.integers[: self.bins] or tuple(range(self.bins))

    def window(self, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """The actions of all frames, each decided by the frames up to it.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right; or float [B, any width], a sentence's vector.

        Returns:
            Logits float32 [B, F, S, C].

        Raises:
            ValueError: more frames than the model has positions for.
        """
        b, f = images.shape[:2]
        if f > self.frames:
            raise ValueError(f'{f} frames; config.model.frames is {self.frames}')
        if self.points:
            images = painted_points.paint(images, self._numbers(prompt))
        encoded = jnp.issubdtype(prompt.dtype, jnp.floating)
        vector = prompt if encoded else self._sentence(prompt)
        tokens = self._image_tokens(images, vector)
        slots = jnp.zeros((b, f, self.slots, tokens.shape[-1]), self.dtype)
        if self.dead_embedding and self.is_initializing():
            self.action_embedding(jnp.zeros((1, self.bins), self.dtype))
        x = jnp.concatenate([tokens, slots], axis=2).reshape(b, -1, tokens.shape[-1])
        x = self.positions(self.token_projection(x))
        seen = attention_mask(f, self.image_tokens, self.slots, self.mask)
        mask = jnp.where(seen, 0.0, layers.NEGATIVE)[None, None]
        x, _ = self.layers(layers.constrain(x, 'batch', 'length', 'width'), None, mask)
        x = x.reshape(b, f, self.image_tokens + self.slots, -1)
        # The logits of a slot stand one place before it.
        first = self.image_tokens - 1
        x = x[:, :, first : first + self.action_length].astype(jnp.float32)
        return layers.constrain(self.head(x), 'batch', 'length', None, 'vocab')

    def act(self, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """All slots of the action at the last frame, float32 [B, S, C]; see `backbone.OnePass`."""
        return self.window(images, prompt)[:, -1]

    def values(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """The logits of a target's actions; see `backbone.OnePass`."""
        logits, length = self.window(images, prompt), target_in.shape[1]
        b, frames = logits.shape[:2]
        # Those of all frames if there is room for them.
        shown = logits if length >= frames * self.action_length else logits[:, -1:]
        shown = shown.reshape(b, -1, self.bins)[:, :length]
        return jnp.pad(shown, ((0, 0), (0, length - shown.shape[1]), (0, 0)))

    def __call__(
        self,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        columns: jax.Array | None = None,
    ) -> jax.Array:
        """As `values`, but logits float32 [B, T, V] of all tokens, or of `columns`; see `Backbone`."""
        return self._of_tokens(self.values(images, prompt, target_in), columns)

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> DecodeState:
        """Decides everything; `step` then reads it slot by slot; see `backbone.Backbone`."""
        return DecodeState(
            cache=(),
            valid=jnp.ones(prompt.shape, bool),
            index=jnp.zeros((), jnp.int32),
            first=self.act(images, prompt),
        )

    def step(
        self, state: DecodeState, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """The logits of the next slot, whatever was decided in the last one; see `backbone.Backbone`."""
        logits = jax.lax.dynamic_index_in_dim(state.first, state.index, axis=1, keepdims=False)
        return self._of_tokens(logits, columns), state.next(state.cache)

    def image_attention(
        self, intermediates: Mapping, images: jax.Array, prompt: jax.Array
    ) -> jax.Array:
        """Attention of the last frame's slots to the image, [L, B, S, F, rows, columns].

        A token's share is split over the places that TokenLearner made it of. Maps are taken to be as
        square as the frames.
        """
        b, f, height, width = images.shape[:4]
        weights = intermediates['layers']['attention']['weights'][0].mean(2)
        weights = weights.reshape(*weights.shape[:3], f, -1)[..., : self.image_tokens]
        first = weights.shape[2] - 1 - self.slots
        weights = weights[:, :, first : first + self.action_length]
        learnt = intermediates['token_learner']['weights'][0]
        learnt = learnt.reshape(b, f, *learnt.shape[1:])
        if self.language == 'token':  # what went to the sentence went to no place
            learnt = learnt[:, :, :-1]
        places = jnp.einsum('lbsfi,bfmi->lbsfm', weights, learnt)
        rows = round(math.sqrt(places.shape[-1] * height / width))
        return places.reshape(*places.shape[:4], rows, -1)

    def _of_tokens(self, logits: jax.Array, columns: jax.Array | None) -> jax.Array:
        """Logits [..., C] of values as those of tokens: [..., V], or of `columns`."""
        value = np.full(max(self.vocab, *self.columns) + 1, self.bins)
        value[list(self.columns)] = np.arange(self.bins)
        wanted = value[: self.vocab] if columns is None else jnp.asarray(value)[columns]
        # All tokens that are no value have the column behind the last.
        pad = [(0, 0)] * (logits.ndim - 1) + [(0, 1)]
        return jnp.pad(logits, pad, constant_values=layers.NEGATIVE)[..., wanted]

    def _image_tokens(self, images: jax.Array, vector: jax.Array) -> jax.Array:
        """Tokens [B, F, I, D] of frames."""
        b, f = images.shape[:2]
        vector = jnp.repeat(vector.astype(self.dtype), f, axis=0)
        x = towers.features(self.eyes, images.reshape(b * f, *images.shape[2:]), vector)
        x = self.projection(x)
        if self.language == 'film':
            x = self.film(x[:, None], vector)[:, 0]
        else:
            x = jnp.concatenate([x, self.sentence_projection(vector)[:, None]], axis=1)
        x = self.token_learner(x)
        return x.reshape(b, f, *x.shape[1:])

    def _sentence(self, prompt: jax.Array) -> jax.Array:
        """A prompt's vector, [B, words] or [B, 2 words], of unit mean square."""
        valid = prompt != 0
        if self.points:
            valid &= self._numbers(prompt) < 0
        return sentence.of_words(self.embedding, prompt, valid, self.ordered)

    def _numbers(self, prompt: jax.Array) -> jax.Array:
        """See `painted_points.numbers`."""
        return painted_points.numbers(prompt, self.integers or range(self.vocab))
