"""Where a model looks when it decides the tokens of an answer.

Of the answer, decided already, every token's attention comes out of one teacher-forced call, in which
the layers leave their weights behind (flax's `sow`). Nobody asks for those while an answer is sampled,
and what is not asked for is not computed.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import functools
from typing import Any

from flax import linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np

from rt2_jax.decoding.sampler import padded
from rt2_jax.models import stacks
from rt2_jax.policy.batches import Question, placed, table_in_force


@dataclasses.dataclass(frozen=True, eq=False)
class ImageAttention:
    """Attention of an answer's last tokens over the image. Keep one: each compiles for itself.

    Attributes:
      model: a Flax module with `image_attention`; see `models.backbone`.
      prompt_length: what prompts are padded to, P.
      mesh: devices that share the work; None for one.
    """

    model: nn.Module
    prompt_length: int
    mesh: Mesh | None = None

    def __call__(
        self, params: Any, question: Question, answer: Sequence[int], count: int, longest: int
    ) -> np.ndarray:
        """Looks of the last `count` tokens of an answer.

        A token's look is that of the place that decides it: it has seen the tokens before, not this one.

        Args:
          params: the model's parameter tree, on the mesh where there is one.
          question: what was answered.
          answer: token ids, at most `longest`.
          count: compiles anew; so does `longest`, the length that every answer is padded to.

        Returns:
          float32 [layers, count, F, rows, columns], mean over heads: the share of a layer's attention
          that each image token has. What is left to 1 went to the prompt, and in layers that attend to
          the answer too, to its tokens.
        """
        size = self.mesh.shape['data'] * self.mesh.shape['fsdp'] if self.mesh else 1
        target_in = padded([[0, *answer[:-1]]] * size, longest, 0)
        prompt = padded([question.prompt] * size, self.prompt_length, 0)
        arrays = np.stack([question.frames] * size), prompt, target_in
        with table_in_force(self.mesh):
            looks = self._looks(
                params,
                *(placed(array, self.mesh) for array in arrays),
                len(answer) - count,
                count=count,
            )
        return np.asarray(looks)[:, 0]

    @functools.partial(jax.jit, static_argnames=('self', 'count'))
    def _looks(self, params, images, prompt, target_in, first, *, count) -> jax.Array:
        _, left = self.model.apply(
            {'params': params}, images, prompt, target_in, mutable=['intermediates']
        )
        looks = self.model.image_attention(stacks.stack_trees(left['intermediates']), images, prompt)
        return jax.lax.dynamic_slice_in_dim(looks, first, count, axis=2).astype(jnp.float32)
