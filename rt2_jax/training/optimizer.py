"""Adafactor or AdamW from a config: schedule, clipping, rates by part, weight decay."""

from collections.abc import Callable, Mapping, Sequence
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from rt2_jax.nearest import nearest
from rt2_jax.parallel.sharding import named_leaves, parameter_name

SCHEDULES = ('constant', 'cosine', 'rsqrt')
OPTIMIZERS = ('adafactor', 'adamw')


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
    stacked = 'layers' in name or any(part.endswith('_layers') for part in name)
    return name[-1] not in ('bias', 'scale') and leaf.ndim - int(stacked and leaf.ndim > 1) >= 2


def make_optimizer(config: Any, total_steps: int, params: Any) -> optax.GradientTransformation:
    """Builds the optimizer for a tree of parameters (shapes are enough).

    `config` holds name, lr, schedule, warmup, end_fraction, clip (global norm, 0: off),
    weight_decay (decoupled, times the learning rate), b1, b2, eps, frozen (list of patterns) and
    part_lr (pattern -> factor on the rate). Patterns are regular expressions searched in
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
        chain.append(optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps))
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
