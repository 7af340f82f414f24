"""A model whose layers' methods go through a function first: how one kind of device gets its own way."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
from typing import Any

import flax.linen as nn


@dataclasses.dataclass(frozen=True, eq=False)
class InterceptedModel:
    """A model, every call of whose layers is given to a function; see `flax.linen.intercept_methods`.

    Attributes:
        model: the module, or another that wraps it.
        intercept: takes the call, its arguments, its keyword arguments and their context.
    """

    model: Any
    intercept: Callable[..., Any]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def apply(self, variables: Any, *inputs: Any, **settings: Any) -> Any:
        """As `nn.Module.apply`."""
        with nn.intercept_methods(self.intercept):
            return self.model.apply(variables, *inputs, **settings)
