"""Low-rank adapters (LoRA, arXiv 2106.09685) beside frozen kernels.

A layer computes x W + alpha / rank * (x A) B, with A [inputs, rank] and B [rank, outputs], B zero at first.
qwix adds the product in the layers of any model, and keeps A and B beside their kernel. Here they are a
top-level part of the parameters, `adapters`; the rest is the tree of the plain model, so that weights are
loaded, frozen and exported as without adapters.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
import dataclasses
import re
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp

from rt2_jax.models.backbone import Backbone
from rt2_jax.parallel.sharding import parameter_name
from rt2_jax.training.optimizer import matching

PART = 'adapters'
_QWIX = {'low': '_lora_a', 'high': '_lora_b'}  # ours -> what qwix puts behind a kernel's name


@dataclasses.dataclass(frozen=True, eq=False)
class Adapted:
    """A model with adapters on some of its kernels.

    Attributes:
        model: the module.
        patterns: regular expressions searched in kernels' slash-separated names.
        rank: of the products.
        alpha: factor of the products, times the rank.
    """

    model: Backbone
    patterns: tuple[str, ...]
    rank: int
    alpha: float

    def __getattr__(self, name: str) -> Any:
        return getattr(self.model, name)

    def init(self, rng: jax.Array, *inputs: Any) -> dict[str, Any]:
        """Parameters boxed with their logical axes, as `nn.Module.init`.

        Raises:
            ValueError: a pattern that matches no parameter, or one that is no kernel.
        """
        names = _named(self.model.init(rng, *inputs)['params'])
        chosen: set[str] = set()
        for pattern in self.patterns:
            chosen |= set(matching(pattern, list(names), 'config.adapters.patterns'))
        if others := sorted(name for name in chosen if not name.endswith('/kernel')):
            raise ValueError(f'config.adapters.patterns match {others[0]}, which is no kernel')
        named = _named(self._with(chosen).init(rng, *inputs)['params'])
        pairs = {
            name.replace('/', '.'): {ours: named.pop(name + end) for ours, end in _QWIX.items()}
            for name in sorted(chosen)
        }
        return {'params': flax.traverse_util.unflatten_dict(named, sep='/') | {PART: pairs}}

    def apply(self, variables: Mapping[str, Any], *inputs: Any, **settings: Any) -> Any:
        """As `nn.Module.apply`."""
        params = dict(variables['params'])
        pairs = {name.replace('.', '/'): pair for name, pair in params.pop(PART).items()}
        named = flax.traverse_util.flatten_dict(params, sep='/')
        for name, pair in pairs.items():
            named |= {name + end: pair[ours] for ours, end in _QWIX.items()}
        params = flax.traverse_util.unflatten_dict(named, sep='/')
        return self._with(pairs).apply({**variables, 'params': params}, *inputs, **settings)

    def _with(self, kernels: Iterable[str]) -> Any:
        """The model with adapters on these kernels."""
        try:
            import qwix
        except ImportError as error:
            raise ImportError("adapters need pip install 'rt2_jax[adapters]'") from error
        paths = '|'.join(re.escape(name.removesuffix('/kernel')) for name in sorted(kernels))
        provider = qwix.LoraProvider(module_path=paths, rank=self.rank, alpha=self.alpha)
        return qwix.apply_lora_to_model(self.model, provider)


def add_adapters(model: Backbone, config: Any) -> Any:
    """The model with the adapters of `config.adapters`; as it is where their rank is 0."""
    settings = config.get('adapters', {})
    if not settings.get('rank', 0):
        return model
    return Adapted(model, tuple(settings['patterns']), settings['rank'], float(settings['alpha']))


def merge(params: Any, config: Any) -> Any:
    """Merges adapters into their kernels, each where its kernel lies."""
    if PART not in params:
        return params
    settings = config.adapters
    shardings = jax.tree.map(lambda x: x.sharding, {k: v for k, v in params.items() if k != PART})
    return jax.jit(merged, static_argnums=(1, 2), out_shardings=shardings)(
        params, settings.rank, float(settings.alpha)
    )


def merged(params: Mapping[str, Any], rank: int, alpha: float) -> dict[str, Any]:
    """Each kernel with its product added, without the adapters."""
    pairs = params[PART]

    def add_product(path: Any, kernel: jax.Array) -> jax.Array:
        name = parameter_name(path).replace('/', '.')
        if name not in pairs:
            return kernel
        low, high = pairs[name]['low'], pairs[name]['high']
        product = jnp.einsum('...ir,...ro->...io', low, high).reshape(kernel.shape)
        return kernel + (alpha / rank * product).astype(kernel.dtype)

    plain = {part: x for part, x in params.items() if part != PART}
    return jax.tree_util.tree_map_with_path(add_product, plain)


def _named(params: Any) -> dict[str, Any]:
    """Parameters, boxed or not, by slash-separated names."""
    is_box = lambda x: isinstance(x, nn.meta.AxisMetadata)
    flat = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_box)[0]
    return {parameter_name(path): value for path, value in flat}
