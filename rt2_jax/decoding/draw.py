"""Draws of a token from the distribution that a grammar leaves.

Axes: B rows, C columns, T places of an answer, K alternatives.
"""

import jax
import jax.numpy as jnp

MASKED = -1e30  # finite, so that 0 * log(0) of a masked token is 0 and not NaN

TopK = tuple[jax.Array, jax.Array]  # ids int32 and log-probabilities float32, each [B, T, K]


def log_softmax(logits: jax.Array, allowed: jax.Array) -> jax.Array:
    """Log-probabilities [B, C] of the distribution restricted to `allowed` bool [B, C].

    What is not allowed gets a finite number so low that its probability is exactly 0.
    """
    masked = jnp.where(allowed, logits.astype(jnp.float32), MASKED)
    return jnp.where(allowed, jax.nn.log_softmax(masked, axis=-1), MASKED)


def choose(
    log_p: jax.Array,
    uniform: jax.Array,
    temperature: jax.Array,
    top_p: float,
    scores: jax.Array | None = None,
) -> jax.Array:
    """Draws a column of each row of `log_p` [B, C] by one `uniform` number [B] in [0, 1).

    The inverse of the cumulative distribution is used, and not Gumbel noise, because a masked
    column then takes no part: the draw is the same whether it was masked or left out.

    Args:
        log_p: log-probabilities, as `log_softmax` gives them.
        uniform: numbers in [0, 1).
        temperature: float [B]; where 0, the likeliest column is taken.
        top_p: see `Sampler.top_p`.
        scores: float [B, C], by which the likeliest column is chosen; `log_p` by default.

    Returns:
        int32 [B].
    """
    likeliest = jnp.argmax(log_p if scores is None else scores, axis=-1)
    tempered = log_p / jnp.maximum(temperature, 1e-6)[:, None]
    weights = jax.nn.softmax(jnp.maximum(tempered, MASKED), axis=-1)
    if top_p < 1:
        weights = jnp.where(_nucleus(weights, top_p), weights, 0)
    cumulative = jnp.cumsum(weights, axis=-1)
    total = cumulative[:, -1]
    # Below the total, so that some column always lies above it, however the product rounds.
    target = jnp.minimum(uniform * total, jnp.nextafter(total, jnp.zeros_like(total)))
    drawn = jnp.argmax(cumulative > target[:, None], axis=-1)
    return jnp.where(temperature > 0, drawn, likeliest).astype(jnp.int32)


def spread(log_p: jax.Array, width: float) -> jax.Array:
    """Scores [B, C], the log of the probability on and near each column, weighted by a Gaussian.

    Args:
        log_p: log-probabilities.
        width: its standard deviation, columns.
    """
    places = jnp.arange(log_p.shape[-1], dtype=jnp.float32)
    kernel = jnp.exp(-0.5 * ((places[:, None] - places) / width) ** 2)
    return jnp.log(jnp.exp(log_p) @ kernel)


def no_top_k(shape: list[int], pad: jax.Array) -> TopK | None:
    """Alternatives [B, T, K] before any is known; None for K = 0.

    No array where none is wanted, so that the usual call compiles to the same program.
    """
    return (jnp.full(shape, pad), jnp.full(shape, -jnp.inf)) if shape[-1] else None


def write_top_k(
    place: jax.Array, top_k: TopK, log_p: jax.Array, ids: jax.Array, done: jax.Array, pad_id: int
) -> TopK:
    """Adds the likeliest columns at a place.

    Args:
        place: int32 [], of the answer.
        top_k: so far.
        log_p: [B, C].
        ids: int32 [C], of the columns.
        done: bool [B], rows that have ended.
        pad_id: for where fewer are allowed.
    """
    all_ids, all_log_probs = top_k
    count = min(all_ids.shape[-1], log_p.shape[-1])
    best, columns = jax.lax.top_k(log_p, count)
    allowed = (best > MASKED / 2) & ~done[:, None]
    tokens = jnp.where(allowed, ids[columns].astype(jnp.int32), pad_id)
    return (
        all_ids.at[:, place, :count].set(tokens),
        all_log_probs.at[:, place, :count].set(jnp.where(allowed, best, -jnp.inf)),
    )


def _nucleus(weights: jax.Array, top_p: float) -> jax.Array:
    """The fewest columns whose `weights` (which sum to 1) reach `top_p`, bool [B, C]."""
    descending = -jnp.sort(-weights, axis=-1)
    before = jnp.cumsum(descending, axis=-1) - descending
    # The likeliest always stays; equals of the last that stays do too.
    last = jnp.sum(before < top_p, axis=-1, keepdims=True) - 1
    return weights >= jnp.take_along_axis(descending, jnp.maximum(last, 0), axis=-1)
