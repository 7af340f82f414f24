"""Any number of questions through the sampler in batches of a few static sizes, each compiled once."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import Sampler, padded
from rt2_jax.parallel import sharding


@dataclasses.dataclass(frozen=True, eq=False)
class Question:
    """One row of a batch.

    Attributes:
      frames: uint8 [F, S, S, 3], as the model takes them.
      prompt: token ids.
      kind: of the answer.
      forced: the answer's first ids where they are decided already, a plan that a user wrote.
    """

    frames: np.ndarray
    prompt: list[int]
    kind: Kind
    forced: Sequence[int] = ()


@dataclasses.dataclass(frozen=True, eq=False)
class Answer:
    """What was sampled for a question: T tokens before the end.

    Attributes:
      ids: int32 [T].
      log_probs, entropies: float32 [T]; see `sampler.Samples`.
      likeliest: ids int32 and log-probabilities float32 [T, K]; None unless asked for.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    entropies: np.ndarray
    likeliest: tuple[np.ndarray, np.ndarray] | None = None


def check_sizes(sizes: Sequence[int] | None, mesh: Mesh | None) -> tuple[int, ...]:
    """Sizes of batches, ascending; some for robots from one to dozens if None.

    Raises:
      ValueError: none, one below 1, or one that the mesh cannot split.
    """
    rows = mesh.shape['data'] * mesh.shape['fsdp'] if mesh else 1
    if sizes is None:
        sizes = tuple(rows * size for size in (1, 4, 16, 64))
    if not sizes or min(sizes) < 1 or any(size % rows for size in sizes):
        raise ValueError(
            f'batch_sizes is {sizes}; sizes of 1 or more are needed'
            + (f', multiples of {rows} = data x fsdp of the mesh.' if rows > 1 else '.')
        )
    return tuple(sorted(sizes))


def placed(rows: np.ndarray, mesh: Mesh | None) -> Any:
    """An array with a leading axis of rows, where a mesh has it."""
    return jax.device_put(rows, sharding.batch_sharding(mesh)) if mesh else rows


def table_in_force(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Within it, a traced model's activations lie on the mesh as its table says."""
    return sharding.rules(mesh) if mesh else contextlib.nullcontext()


def ask(
    sampler: Sampler,
    params: Any,
    questions: Sequence[Question],
    *,
    sizes: Sequence[int],
    prompt_length: int,
    key: jax.Array,
    temperature: float = 0.0,
    alternatives: int = 0,
    mesh: Mesh | None = None,
) -> list[Answer]:
    """An answer to each question.

    Args:
      sampler, params: the model; `params` lie on the mesh where there is one.
      questions: any number, of any kinds.
      sizes: of batches, ascending; what they lack of one is filled with rows that nobody looks at.
      prompt_length: what prompts are padded to, P.
      key: of the draws where the temperature is above 0.
      temperature, alternatives: see `Sampler`.
      mesh: devices that share the work; None for one.

    Raises:
      ValueError: a forced plan is longer than the grammar's longest.
    """
    answers = []
    for number, start in enumerate(range(0, len(questions), sizes[-1])):
        rows = questions[start : start + sizes[-1]]
        size = next(size for size in sizes if size >= len(rows))
        answers += _ask_batch(
            sampler, params, [*rows, *[rows[0]] * (size - len(rows))],
            prompt_length=prompt_length, mesh=mesh, rng=jax.random.fold_in(key, number),
            temperature=temperature, alternatives=alternatives,
        )[: len(rows)]  # fmt: skip
    return answers


def _ask_batch(
    sampler: Sampler,
    params: Any,
    rows: Sequence[Question],
    *,
    prompt_length: int,
    mesh: Mesh | None,
    **settings: Any,
) -> list[Answer]:
    pad = sampler.grammar.pad_id
    width = sampler.grammar.plan_length if any(len(row.forced) for row in rows) else 0
    if any(len(row.forced) > width for row in rows):
        raise ValueError(f'A plan has more than {width} tokens; use a shorter one.')
    with table_in_force(mesh):
        samples = sampler(
            params,
            placed(np.stack([row.frames for row in rows]), mesh),
            placed(padded([row.prompt for row in rows], prompt_length, pad), mesh),
            np.array([row.kind for row in rows], np.int32),
            forced=padded([row.forced for row in rows], width, pad) if width else None,
            **settings,
        )
    samples = jax.device_get(samples)
    lengths, found = samples.lengths[:, 0], jax.tree.map(lambda x: x[:, 0], samples)
    return [
        Answer(
            found.tokens[i, :n],
            found.log_probs[i, :n],
            found.entropies[i, :n],
            found.likeliest and tuple(x[i, :n] for x in found.likeliest),
        )
        for i, n in enumerate(lengths)
    ]
