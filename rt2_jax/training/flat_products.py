"""Matrix products of a model as one CPU computes them fastest: of matrices, and in bfloat16 if asked.

XLA on a CPU takes a gradient of a kernel from activations [B, T, D] by writing them out transposed, and
computes once more, element by element, what they were made of. From activations [B * T, D] it reads them
as they lie: the miniature's training step is a fifth shorter. CPUs with instructions for it (AMX,
AVX512-BF16) multiply bfloat16 at two to three times the speed of float32, summing in float32, as TPUs
do by default; that is `config.cpu_products='bfloat16'` (BUILD_NOTES.md, "The training step").

Axes: N rows, K inputs, M outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
import math
import pathlib
from typing import Any

import flax.linen as nn
import jax
from jax.experimental.layout import Layout, with_layout_constraint
import jax.numpy as jnp

from rt2_jax.models import embedding, layers
from rt2_jax.models.intercepted import InterceptedModel

TYPES = ('float32', 'bfloat16')
BFLOAT16_FLAGS = {'amx_bf16', 'avx512_bf16'}  # of /proc/cpuinfo
Multiply = Callable[[jax.Array, jax.Array], jax.Array]  # [N, K] and [K, M] to [N, M]


def flat(model: Any, multiply: Multiply = jnp.matmul) -> InterceptedModel:
    """The model with layers that multiply matrices.

    Args:
        model: the module, or another that wraps it.
        multiply: how `Linear` layers multiply; logits are always float32.
    """

    def intercept(
        call: Callable[..., Any],
        args: Sequence[Any],
        settings: Mapping[str, Any],
        context: nn.module.InterceptorContext,
    ) -> Any:
        module, method = context.module, context.method_name
        if isinstance(module, layers.Linear) and method == 'product':
            return _flat(multiply, args[0], args[1], module.contract)
        if all(x is None for x in args[1:]):  # no `columns`
            if isinstance(module, embedding.Embedding) and method == 'logits':
                return _flat(jnp.matmul, args[0], module.table().T, 1)
            if isinstance(module, embedding.Head) and method == '__call__':
                return _flat(jnp.matmul, args[0], module.get_variable('params', 'kernel'), 1)
        return call(*args, **settings)

    return InterceptedModel(model, intercept)


def _flat(multiply: Multiply, x: jax.Array, kernel: jax.Array, contract: int) -> jax.Array:
    """X [..., *inputs] times a kernel [*inputs, *outputs]."""
    lead, inputs = x.shape[: x.ndim - contract], kernel.shape[:contract]
    size = math.prod(inputs)
    y = multiply(x.reshape(-1, size), kernel.reshape(size, -1))
    return y.reshape(*lead, *kernel.shape[contract:])


def for_one_cpu(model: Any, products: str) -> InterceptedModel:
    """The model with flat products of a type of `TYPES`; float32 where the CPU is slow at bfloat16."""
    if products == 'bfloat16' and multiplies_bfloat16():
        return flat(model, multiply_bfloat16)
    return flat(model)


def multiplies_bfloat16() -> bool:
    """Whether this CPU has instructions for products of bfloat16, and XLA's library uses them."""
    cpus = pathlib.Path('/proc/cpuinfo')
    if not cpus.exists() or not BFLOAT16_FLAGS & set(cpus.read_text().split()):
        return False
    try:
        jax.jit(jax.grad(lambda x: multiply_bfloat16(x, x).sum()))(jnp.ones((16, 16)))
    except jax.errors.JaxRuntimeError:
        return False
    return True


@jax.custom_vjp
def multiply_bfloat16(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """float32 [N, K] times [K, M], rounded to bfloat16 and summed in float32."""
    return _product(x, kernel)[0]


def _product(x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
    return _dot(x, kernel), (x, kernel)


def _gradients(
    factors: tuple[jax.Array, jax.Array], gradient: jax.Array
) -> tuple[jax.Array, jax.Array]:
    x, kernel = factors
    gradient = gradient.astype(jnp.bfloat16)
    return _dot(gradient, kernel.T), _dot(x.T, gradient)


multiply_bfloat16.defvjp(_product, _gradients)


def _dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """A product of two matrices that lie in memory as they are written.

    XLA's library takes no others of bfloat16, and XLA would give it transposed views. The product itself
    must not be constrained: XLA (jaxlib 0.10.2) then computes a wrong transpose of it.
    """
    laid = lambda x: with_layout_constraint(x, Layout((0, 1)))
    return jnp.matmul(laid(x), laid(y), preferred_element_type=jnp.float32)
