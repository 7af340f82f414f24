"""What a traced function contains: its inner functions, and the activations that it constrains."""

from typing import Any

import jax
from jax.sharding import PartitionSpec


def constraints(jaxpr: Any, where: str = '') -> dict[str, tuple[tuple[int, ...], PartitionSpec]]:
    """The activations that a traced function constrains: where, their shapes, and their sharding.

    Args:
        jaxpr: of a function that was traced under `rules`.
        where: names of the modules around it.
    """
    activations: dict[str, tuple[tuple[int, ...], PartitionSpec]] = {}
    for equation in getattr(jaxpr, 'jaxpr', jaxpr).eqns:
        stack = str(equation.source_info.name_stack)
        name = '/'.join(part for part in (where, stack) if part)
        if equation.primitive.name == 'sharding_constraint':
            shape, spec = equation.outvars[0].aval.shape, equation.params['sharding'].spec
            key, number = name, 1
            while key in activations:
                number += 1
                key = f'{name}:{number}'
            activations[key] = shape, spec
        for inner in inner_jaxprs(equation):
            activations |= constraints(inner, name)
    return activations


def inner_jaxprs(equation: Any) -> list[Any]:
    """The functions that an equation of a jaxpr runs: bodies of loops, branches, calls."""
    leaves = jax.tree.leaves(list(equation.params.values()), is_leaf=_is_jaxpr)
    return list(filter(_is_jaxpr, leaves))


def _is_jaxpr(value: Any) -> bool:
    return hasattr(value, 'eqns')
