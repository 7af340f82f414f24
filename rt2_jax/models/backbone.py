"""The interface of every backbone, and the one that a config names.

Axes: L layers, B batch, F frames, H and W pixels, P prompt, T target, V vocabulary, C columns of it.
"""

from collections.abc import Iterable, Mapping
import dataclasses
from typing import Any, Protocol, TypeGuard, cast

import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models import (
    classifier,
    contrastive,
    decoder_only,
    encoder_decoder,
    masked_autoencoder,
    pali,
    rt1,
    stacks,
    t5gemma2,
    t5gemma2_stacks,
    time_contrastive,
    towers,
    vit,
)
from rt2_jax.models.decode_state import DecodeState
from rt2_jax.nearest import check


class Backbone(Protocol):
    """Images and a prompt in, the logits of an answer out; trainer and sampler know no more.

    A Flax module whose methods below run within `apply`: `model.apply({'params': params}, images,
    prompt, length, method='prefill')`. The padding token is 0.

    Attributes:
        vocab: V.
        dtype: of matrix products.
    """

    vocab: int
    dtype: Any

    def init(self, rng: jax.Array, *inputs: Any) -> Any:
        """As `nn.Module.init`, of the inputs of `__call__`."""

    def apply(self, variables: Any, *inputs: Any, **settings: Any) -> Any:
        """As `nn.Module.apply`."""

    def __call__(
        self,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        columns: jax.Array | None = None,
    ) -> jax.Array:
        """Teacher forcing.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right.
            target_in: int32 [B, T], the target shifted right by one, starting with 0.
            columns: int32 [C], the tokens whose logits are wanted; None for all.

        Returns:
            Logits float32 [B, T, V] or [B, T, C].
        """

    def prefill(self, images: jax.Array, prompt: jax.Array, max_length: int) -> DecodeState:
        """Computes once what every token of an answer needs.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right.
            max_length: most tokens of an answer.

        Returns:
            The state before the first token.
        """

    def step(
        self, state: DecodeState, token: jax.Array, columns: jax.Array | None = None
    ) -> tuple[jax.Array, DecodeState]:
        """Decodes one token.

        Args:
            state: of `prefill` or the last `step`.
            token: int32 [B], the last token; 0 before the first.
            columns: int32 [C], the tokens whose logits are wanted; None for all.

        Returns:
            Logits float32 [B, V] or [B, C] of the next token, and the state.
        """

    def image_attention(
        self, intermediates: Mapping, images: jax.Array, prompt: jax.Array
    ) -> jax.Array:
        """The target's attention to the image, from what a teacher-forced call sowed.

        Args:
            intermediates: the collection of this name of that call, with leading layer axes.
            images: uint8 [B, F, H, W, 3], of that call.
            prompt: int32 [B, P], of that call.

        Returns:
            [L, B, T, F, rows, columns], mean over heads: the share of a place's attention that each
            image token has. All that the layer attends to has shares that sum to 1.
        """


class OnePass(Backbone, Protocol):
    """A backbone that writes actions alone, and all numbers of one at once.

    A call that may write the collection `efficientnet.STATISTICS` leaves new values of some parameters
    there.

    Attributes:
        columns: the token id of each value that a number can have, C of them.
        action_length: S, how many numbers an action has.
        untrained: patterns of names of parameters that no gradient changes; see
            `optimizer.make_optimizer`.
    """

    columns: tuple[int, ...]
    action_length: int
    untrained: tuple[str, ...]

    def act(self, images: jax.Array, prompt: jax.Array) -> jax.Array:
        """Decides an action in one pass.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right.

        Returns:
            Logits float32 [B, S, C].
        """

    def values(self, images: jax.Array, prompt: jax.Array, target_in: jax.Array) -> jax.Array:
        """As `__call__`, but the logits of `columns` alone.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right.
            target_in: int32 [B, T], of which nothing but the length is read. The target holds the
                actions of all frames, oldest first, if these fit into T, else that of the last.

        Returns:
            Logits float32 [B, T, C]; zeros behind the actions.
        """


class OwnLoss(Protocol):
    """A model that is trained by a loss of its own, not by next-token cross-entropy, and doesn't decode.

    What `Backbone` says of `init`, `apply` and attributes holds; what a call returns is its own affair.
    It draws from the rng `dropout` if a call has one, else the same at every call. A call that may write
    the collection `efficientnet.STATISTICS` leaves new values of some parameters there.

    Attributes:
        untrained: as in `OnePass`.
    """

    untrained: tuple[str, ...]

    def losses(
        self, images: jax.Array, prompt: jax.Array, target: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """The loss of each row; gradients are those of its sum over rows by the sum of the weights.

        Args:
            images: uint8 [B, F, H, W, 3].
            prompt: int32 [B, P], padded on the right.
            target: int32 [B, T], padded on the right, not shifted.

        Returns:
            Float32 [B] each: the loss, what the model got right, and the weight: the most that can be
            right. The log's accuracy is the second by the third.
        """


def has_own_loss(model: Any) -> TypeGuard[OwnLoss]:
    """Whether a model is of the kind that is trained by a loss of its own."""
    return hasattr(model, 'losses')


def decodes(config: Mapping) -> bool:
    """Whether the model of a config's `model` part writes anything, or is a tower trained alone."""
    return hasattr(_BACKBONES[config['name']], 'prefill')


def is_one_pass(model: Any) -> TypeGuard[OnePass]:
    """Whether a model is of the kind that writes actions alone."""
    return bool(getattr(model, 'columns', ()))


def trains_otherwise(model: Any) -> bool:
    """Whether a model's call differs in training: it draws what it leaves out, or norms by the batch.

    Those do that decide an action in one pass, that have a loss of their own, or whose tower has running
    statistics.
    """
    return is_one_pass(model) or has_own_loss(model) or bool(getattr(model, 'untrained', ()))


_DTYPES = ('float32', 'bfloat16', 'float16', 'float64')
_BACKBONES: dict[str, type[nn.Module]] = {
    'pali': pali.PaLI,
    'decoder_only': decoder_only.DecoderOnly,
    't5gemma2': t5gemma2.T5Gemma2,
    'rt1': rt1.RT1,
    # For training alone: they do not decode.
    'classifier': classifier.Classifier,
    'contrastive': contrastive.Contrastive,
    'masked_autoencoder': masked_autoencoder.MaskedAutoencoder,
    'time_contrastive': time_contrastive.TimeContrastive,
}
# Fields of each backbone that are configs themselves; `vision` of one with a `tower` is that tower's.
_PARTS: dict[str, dict[str, type[stacks.Config]]] = {
    'pali': {
        'vision': vit.ViTConfig,
        'encoder': encoder_decoder.T5Config,
        'decoder': encoder_decoder.T5Config,
    },
    'decoder_only': {'vision': vit.ViTConfig, 'text': decoder_only.DecoderConfig},
    't5gemma2': {
        'vision': vit.ViTConfig,
        'encoder': t5gemma2_stacks.StackConfig,
        'decoder': t5gemma2_stacks.StackConfig,
    },
    'rt1': {'decoder': rt1.DecoderConfig},
    'contrastive': {'text': encoder_decoder.T5Config},
    'masked_autoencoder': {'vision': vit.ViTConfig, 'decoder': masked_autoencoder.DecoderConfig},
}


def build(config: Mapping, vocab: int, integers: Iterable[int] = ()) -> Backbone:
    """Builds the model of a config's `model` part.

    Args:
        config: `name` of the backbone, `dtype`, and its attributes; `vocab`, if above 0, is V in place
            of the tokenizer's: public checkpoints pad theirs, and V must be divisible by the mesh axis
            that it is split over.
        vocab: number of tokens that the tokenizer has.
        integers: the token id of each integer 0, 1, ..., for a model with a number line.

    Raises:
        ValueError: an unknown backbone or field at any depth, or a vocabulary smaller than the tokenizer's.
    """
    fields = dict(config.to_dict() if hasattr(config, 'to_dict') else config)
    name = fields.pop('name')
    check('backbone', name, _BACKBONES)
    dtype = jnp.dtype(check('dtype', fields.pop('dtype'), _DTYPES))
    size = fields.pop('vocab', 0) or vocab
    if size < vocab:
        raise ValueError(f'config.model.vocab is {size}; the tokenizer has {vocab} tokens')
    attributes = {key: _hashable(value) for key, value in fields.items()}
    known = {field.name for field in dataclasses.fields(_BACKBONES[name])} - {'parent', 'name'}
    for key in attributes:
        check(f'field of config.model of {name!r}:', key, known)
    parts = dict(_PARTS.get(name, {}))
    if 'tower' in known:
        default = getattr(_BACKBONES[name], 'tower')
        parts['vision'] = towers.config_of(attributes.get('tower', default))
    for part, kind in parts.items():
        if part in attributes:
            kind.parse(attributes[part], f'config.model.{part}', dtype=dtype)
    if name == 'rt1':
        attributes['integers'] = tuple(int(token) for token in integers)
    elif attributes.get('number_line'):
        attributes['integers'] = tuple(int(token) for token in integers)
        if not attributes['integers']:
            raise ValueError('config.model.number_line needs the token ids of the integers')
    return cast(Backbone, _BACKBONES[name](vocab=size, dtype=dtype, **attributes))


def _hashable(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _hashable(inner) for key, inner in value.items()}
    return tuple(value) if isinstance(value, list) else value
