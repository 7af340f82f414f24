"""Runs any number of inputs through the sampler, in batches of a few static sizes, each compiled once."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import dataclasses
import itertools
from typing import Any

import jax
from jax.sharding import Mesh
import numpy as np

from rt2_jax.decoding.grammar import Kind
from rt2_jax.decoding.sampler import Sampler, Samples
from rt2_jax.parallel import sharding
from rt2_jax.policy.prompt_encoder import padded


@dataclasses.dataclass(frozen=True, eq=False)
class Inputs:
    """What the model takes for one answer.

    Attributes:
        frames: uint8 [F, S, S, 3].
        prompt: token ids.
        kind: of the answer.
        forced: the answer's first token ids where they are given: a plan that a user wrote.
    """

    frames: np.ndarray
    prompt: list[int]
    kind: Kind
    forced: Sequence[int] = ()


class Runner:
    """A sampler and its weights. Thread-safe.

    Attributes:
        sampler: of the model.
        params: the model's parameter tree, on the mesh where there is one.
        prompt_length: what prompts are padded to, P.
        batch_sizes: static sizes, ascending.
        mesh: devices that share the work; None for one device.
    """

    def __init__(
        self,
        sampler: Sampler,
        params: Any,
        prompt_length: int,
        batch_sizes: Sequence[int] | None = None,
        mesh: Mesh | None = None,
        seed: int = 0,
    ) -> None:
        self.sampler, self.prompt_length, self.mesh = sampler, prompt_length, mesh
        self.params = params if mesh else jax.device_put(params)
        self.batch_sizes = check_batch_sizes(batch_sizes, mesh)
        self._key = jax.random.key(seed)
        self._calls = itertools.count()

    def run(
        self,
        inputs: Sequence[Inputs],
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        alternatives: int = 0,
    ) -> list[Samples]:
        """One sample for each of the inputs, which may be of several kinds.

        Args:
            inputs: any number.
            temperature: 0 takes the likeliest tokens.
            seed: of the draws where the temperature is above 0; None takes another one each call.
            alternatives: see `Sampler`.

        Returns:
            For each of the inputs, `Samples` in numpy of the T tokens before the end: `tokens`,
            `log_probs` and `entropies` [T], `lengths` [], `top_k` [T, K] each.

        Raises:
            ValueError: a forced plan is longer than the grammar's longest.
        """
        if seed is None:
            key = jax.random.fold_in(self._key, next(self._calls))
        else:
            key = jax.random.key(seed)
        samples = []
        for number, start in enumerate(range(0, len(inputs), self.batch_sizes[-1])):
            batch = list(inputs[start : start + self.batch_sizes[-1]])
            count = len(batch)
            size = next(size for size in self.batch_sizes if size >= count)
            batch += batch[:1] * (size - count)  # fills the batch up; their samples are dropped
            rng = jax.random.fold_in(key, number)
            samples += self._run_batch(
                batch, rng=rng, temperature=temperature, alternatives=alternatives
            )[:count]
        return samples

    def _run_batch(self, batch: Sequence[Inputs], **settings: Any) -> list[Samples]:
        grammar = self.sampler.grammar
        width = grammar.plan_length if any(len(row.forced) for row in batch) else 0
        if any(len(row.forced) > width for row in batch):
            raise ValueError(f'A plan has more than {width} tokens; use a shorter one.')
        prompts = padded([row.prompt for row in batch], self.prompt_length, grammar.pad_id)
        forced = padded([row.forced for row in batch], width, grammar.pad_id) if width else None
        with sharding_rules(self.mesh):
            samples = self.sampler(
                self.params,
                place(np.stack([row.frames for row in batch]), self.mesh),
                place(prompts, self.mesh),
                np.array([row.kind for row in batch], np.int32),
                forced=forced,
                **settings,
            )
        samples = jax.tree.map(lambda x: x[:, 0], jax.device_get(samples))
        return [
            Samples(
                tokens=samples.tokens[i, :n],
                log_probs=samples.log_probs[i, :n],
                entropies=samples.entropies[i, :n],
                lengths=n,
                top_k=samples.top_k and tuple(x[i, :n] for x in samples.top_k),
            )
            for i, n in enumerate(samples.lengths)
        ]


def check_batch_sizes(sizes: Sequence[int] | None, mesh: Mesh | None) -> tuple[int, ...]:
    """Sizes of batches, ascending; if None, some for robots from one to dozens.

    Raises:
        ValueError: no size, one below 1, or one that the mesh cannot split.
    """
    rows = batch_divisor(mesh)
    if sizes is None:
        sizes = tuple(rows * size for size in (1, 4, 16, 64))
    if not sizes or min(sizes) < 1 or any(size % rows for size in sizes):
        raise ValueError(
            f'batch_sizes is {sizes}; sizes of 1 or more are needed'
            + (f', multiples of {rows} = data x fsdp of the mesh.' if rows > 1 else '.')
        )
    return tuple(sorted(sizes))


def batch_divisor(mesh: Mesh | None) -> int:
    """Batch sizes must be multiples of this: over how many devices a mesh splits a batch."""
    return mesh.shape['data'] * mesh.shape['fsdp'] if mesh else 1


def place(batch: np.ndarray, mesh: Mesh | None) -> Any:
    """An array with a leading batch axis, split over the mesh if there is one."""
    return jax.device_put(batch, sharding.batch_sharding(mesh)) if mesh else batch


def sharding_rules(mesh: Mesh | None) -> contextlib.AbstractContextManager:
    """Within it, activations of a traced model are sharded over the mesh by the sharding table."""
    return sharding.rules(mesh) if mesh else contextlib.nullcontext()
