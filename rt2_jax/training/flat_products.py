"""Matrix products of a model as a CPU computes them fastest: of matrices.

XLA on a CPU takes a gradient of a kernel from activations [B, T, D] by writing them out transposed, and
computes once more, element by element, what they were made of. From activations [B * T, D] it reads them
as they lie: the miniature's training step is a fifth shorter (BUILD_NOTES.md, "The training step").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import dataclasses
from typing import Any

import flax.linen as nn
import jax

from rt2_jax.models import embedding, layers

_LOGITS = (embedding.Embedding, 'logits'), (embedding.Head, '__call__')


@dataclasses.dataclass(frozen=True, eq=False)
class FlatProducts:
    """A model whose layers multiply matrices, for one CPU.

    Attributes:
        model: the module, or another that wraps it.
    """

    model: Any

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def apply(self, variables: Any, *inputs: Any, **settings: Any) -> Any:
        """As `nn.Module.apply`."""
        with nn.intercept_methods(_intercept):
            return self.model.apply(variables, *inputs, **settings)


def _intercept(
    call: Callable[..., Any],
    args: Sequence[Any],
    settings: Mapping[str, Any],
    context: nn.module.InterceptorContext,
) -> Any:
    module, method = context.module, context.method_name
    if isinstance(module, layers.Linear) and method == '__call__':
        return _on_rows(call, args[0], module.contract)
    if (type(module), method) in _LOGITS:
        return _on_rows(call, args[0], 1)
    return call(*args, **settings)


def _on_rows(call: Callable[..., Any], x: jax.Array, contract: int) -> jax.Array:
    """Calls a layer of [..., *inputs] with [rows, *inputs]."""
    lead = x.shape[: x.ndim - contract]
    y = call(x.reshape(-1, *x.shape[len(lead) :]))
    return y.reshape(*lead, *y.shape[1:])
