"""Adafactor, AdamW or Muon from a config: schedule, clipping, rates by part, weight decay."""

from collections.abc import Callable, Mapping, Sequence
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rt2_jax.nearest import nearest
from rt2_jax.parallel.sharding import named_leaves, parameter_name

SCHEDULES = ('constant', 'cosine', 'rsqrt')
OPTIMIZERS = ('adafactor', 'adamw', 'muon')


def make_schedule(config: Any, total_steps: int) -> Callable[[jax.Array], jax.Array]:
    """Step number -> learning rate: a linear warm-up to `config.lr`, then the named schedule.

    `cosine` falls to `config.lr * config.end_fraction` at `total_steps`; `rsqrt` is lr *
    sqrt(warmup / step) as T5 and PaLI do; `constant` stays.

    Raises:
        ValueError: an unknown schedule.
    """
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f'config.optimizer.schedule {config.schedule!r} is '
            f'unknown{nearest(config.schedule, SCHEDULES)}'
        )
    warmup = max(int(config.warmup), 1)

    def schedule(step: jax.typing.ArrayLike) -> jax.Array:
        step = jnp.asarray(step, jnp.float32)
        if config.schedule == 'cosine':
            progress = jnp.clip((step - warmup) / max(total_steps - warmup, 1), 0.0, 1.0)
            after = config.end_fraction + (1 - config.end_fraction) * 0.5 * (
                1 + jnp.cos(jnp.pi * progress)
            )
        elif config.schedule == 'rsqrt':
            after = jnp.sqrt(warmup / jnp.maximum(step, warmup))
        else:
            after = 1.0
        return config.lr * jnp.where(step < warmup, (step + 1) / warmup, after)

    return schedule


def matching(pattern: str, names: Sequence[str], where: str) -> set[str]:
    """The parameter names that match a regular expression, searched anywhere in them.

    Raises:
        ValueError: the pattern matches none.
    """
    matches = {name for name in names if re.search(pattern, name)}
    if not matches:
        raise ValueError(
            f'{where}: the pattern {pattern!r} matches no parameter{nearest(pattern, names)}'
        )
    return matches


def _multipliers(rates: Mapping[str, float], params: Any) -> Any:
    names = list(named_leaves(params))
    factors = {name: 1.0 for name in names}
    for pattern, rate in rates.items():
        for name in matching(pattern, names, 'config.optimizer.part_lr'):
            factors[name] = float(rate)
    return jax.tree_util.tree_map_with_path(lambda path, _: factors[parameter_name(path)], params)


def decays(path: Any, leaf: Any) -> bool:
    """Whether weight decay applies: to matrices, not to norms, biases and other vectors."""
    name = parameter_name(path).split('/')
    return (
        name[-1] not in ('bias', 'scale') and leaf.ndim - int(_stacked(name) and leaf.ndim > 1) >= 2
    )


def _stacked(parts: Sequence[str]) -> bool:
    """Whether a parameter of this name has a leading layer axis."""
    return any(part in ('layers', 'blocks') or part.endswith('_layers') for part in parts)


def make_optimizer(config: Any, total_steps: int, params: Any) -> optax.GradientTransformation:
    """Builds the optimizer for a tree of parameters (shapes are enough).

    `config` holds name, lr, schedule, warmup, end_fraction, clip (global norm, 0: off),
    weight_decay (decoupled, times the learning rate), b1, b2, eps, frozen (list of patterns) and
    part_lr (pattern -> factor on the rate). 'muon' (Jordan et al., 2024) moves matrices between layers
    along their momentum made orthogonal, scaled as AdamW's updates are (arXiv 2502.16982), and all else
    by AdamW; b2 is its momentum. Patterns are regular expressions searched in
    slash-separated parameter names. Frozen parts have no optimizer state.

    Raises:
        ValueError: an unknown optimizer or schedule, or a pattern that matches nothing.
    """
    if config.name not in OPTIMIZERS:
        raise ValueError(
            f'config.optimizer.name {config.name!r} is unknown{nearest(config.name, OPTIMIZERS)}'
        )
    schedule = make_schedule(config, total_steps)
    chain = [optax.clip_by_global_norm(config.clip)] if config.clip else []
    if config.name == 'adamw':
        chain.append(_scale_by_adam(config))
    elif config.name == 'muon':
        chain.append(_scale_by_muon(config, params))
    else:
        chain += [
            optax.scale_by_factored_rms(decay_rate=config.decay_rate),
            optax.clip_by_block_rms(1.0),
        ]
        if config.scale_by_parameter:
            chain.append(optax.scale_by_param_block_rms())
    if config.weight_decay:

        def mask(tree: Any) -> Any:
            return jax.tree_util.tree_map_with_path(decays, tree)

        chain.append(optax.add_decayed_weights(config.weight_decay, mask=mask))
    if config.part_lr:
        factors = _multipliers(dict(config.part_lr), params)
        chain.append(optax.stateless(lambda updates, _: _times(updates, factors)))
    chain.append(optax.scale_by_learning_rate(schedule))
    trained = optax.chain(*chain)
    frozen = frozen_names(config, params)
    if not frozen:
        return trained
    labels = jax.tree_util.tree_map_with_path(
        lambda path, _: 'frozen' if parameter_name(path) in frozen else 'trained', params
    )
    return optax.partition({'trained': trained, 'frozen': optax.set_to_zero()}, labels)


def _scale_by_adam(config: Any) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _scale_by_muon(config: Any, params: Any) -> optax.GradientTransformation:
    """Muon for kernels, as long as Adam's updates (0.2 is their usual root mean square); Adam for others."""

    def lengthen(path: Any, update: jax.Array) -> jax.Array:
        axes = _matrix_axes(path, update)
        assert axes
        sides = [
            math.prod(update.shape[axis] for axis in side)
            for side in (axes.reduction_axis, axes.output_axis)
        ]
        return 0.2 * max(sides) ** 0.5 * update

    by_path = jax.tree_util.tree_map_with_path
    muon = optax.chain(
        optax.contrib.scale_by_muon(
            beta=config.b2, weight_dimension_numbers=lambda tree: by_path(_matrix_axes, tree)
        ),
        optax.stateless(lambda updates, _: by_path(lengthen, updates)),
    )
    labels = by_path(lambda *leaf: 'muon' if _matrix_axes(*leaf) else 'adam', params)
    return optax.partition({'muon': muon, 'adam': _scale_by_adam(config)}, labels)


def _matrix_axes(path: Any, leaf: Any) -> optax.contrib.MuonDimensionNumbers | None:
    """Which axes of a kernel are inputs and which outputs; None if Adam is to train it.

    The embedding, the output matrix, convolutions, norms and biases are no matrices between layers.
    """
    *parts, last = parameter_name(path).split('/')
    if last != 'kernel' or 'head' in parts:
        return None
    inputs, outputs = {
        'query': ((-3,), (-2, -1)),
        'key': ((-3,), (-2, -1)),
        'value': ((-3,), (-2, -1)),
        'out': ((-3, -2), (-1,)),
    }.get(parts[-1], ((-2,), (-1,)))
    layers = leaf.ndim - len(inputs) - len(outputs)
    if layers not in (0, 1) or (layers and not _stacked(parts)):
        return None
    positive = lambda axes: tuple(axis + leaf.ndim for axis in axes)
    return optax.contrib.MuonDimensionNumbers(positive(inputs), positive(outputs))


def frozen_names(config: Any, params: Any) -> frozenset[str]:
    """Names of the parameters that `config.frozen` freezes.

    Raises:
        ValueError: a pattern that matches nothing.
    """
    names = list(named_leaves(params))
    return frozenset().union(
        *(matching(pattern, names, 'config.optimizer.frozen') for pattern in config.frozen)
    )


def _times(updates: Any, factors: Any) -> Any:
    by_name = named_leaves(factors)
    return jax.tree_util.tree_map_with_path(
        lambda path, update: update * by_name[parameter_name(path)], updates
    )
