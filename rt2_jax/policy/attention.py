"""Where a model looks as it decides the tokens of an answer.

The answer is known already, so one teacher-forced call gives the attention of all its tokens. Layers
leave their attention weights behind with flax's `sow`, which costs nothing while answers are sampled.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.models import stacks
from rt2_jax.models.backbone import Backbone
from rt2_jax.policy.prompt_encoder import padded
from rt2_jax.policy.runner import Inputs, batch_divisor, place, sharding_rules


@dataclasses.dataclass(frozen=True, eq=False)
class ImageAttention:
    """Attention of an answer's last tokens to the image. Every instance compiles its own program.

    Attributes:
        model: the backbone.
        grammar: of the answers, each of which ends in an action.
        prompt_length: what prompts are padded to, P.
        mesh: devices that share the work; None for one.
    """

    model: Backbone
    grammar: Grammar
    prompt_length: int
    mesh: Mesh | None = None

    def __call__(self, params: Any, inputs: Inputs, tokens: Sequence[int]) -> np.ndarray:
        """Attention of the action's tokens, the last L of an answer.

        It is that of the position that predicts the token, so it depends on the tokens before alone.

        Args:
            params: the model's parameter tree, on the mesh where there is one.
            inputs: what was answered.
            tokens: ids of the answer: a plan, if there is one, and the action.

        Returns:
            float32 [layers, L, F, rows, columns], mean over heads: the share of a layer's attention
            that each image token has. The rest to 1 went to the prompt and, in layers that attend to
            the answer too, to its tokens.
        """
        size, longest = batch_divisor(self.mesh), self.grammar.max_length(frozenset({Kind.PLAN}))
        row = self.grammar.decoder_inputs(np.asarray(tokens, np.int32)).tolist()
        target_in = padded([row] * size, longest, 0)
        prompt = padded([inputs.prompt] * size, self.prompt_length, 0)
        arrays = np.stack([inputs.frames] * size), prompt, target_in
        with sharding_rules(self.mesh):
            attention = self._attention(
                params,
                *(place(array, self.mesh) for array in arrays),
                len(tokens) - self.grammar.action_length,
            )
        return np.asarray(attention)[:, 0]

    @functools.partial(jax.jit, static_argnames='self')
    def _attention(
        self,
        params: Any,
        images: jax.Array,
        prompt: jax.Array,
        target_in: jax.Array,
        first: jax.Array,
    ) -> jax.Array:
        if not hasattr(self.model, 'image_attention'):
            kind = type(self.model).__name__
            raise ValueError(f'{kind} has no image_attention (rt2_jax/models/backbone.py)')
        _, sown = self.model.apply(
            {'params': params}, images, prompt, target_in, mutable=['intermediates']
        )
        attention = self.model.image_attention(
            stacks.stack_trees(sown['intermediates']), images, prompt
        )
        return jax.lax.dynamic_slice_in_dim(
            attention, first, self.grammar.action_length, axis=2
        ).astype(jnp.float32)
