"""Sources and a mixture -> batches of global JAX arrays, resumable to the bit.

The n-th example of a run is a pure function of n, the sources and the settings, so the state is
the number of batches handed out, and any number of hosts produces the same global batches.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import queue
import threading
import time
from typing import Any, Protocol

import jax
import numpy as np

from rt2_jax.data import batching, order
from rt2_jax.data.augmentation import Augmentation, is_cropped
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.example import Example
from rt2_jax.data.mixture import Mixture, ShareMap
from rt2_jax.data.schedules import Schedule
from rt2_jax.errors import UserError
from rt2_jax.text.actions import ActionTokenizer

# 2: every source's share, not only the robots' together, is kept in each batch.
STATE_FORMAT = 2


class StateMismatch(UserError, ValueError):
    """A data position that means something else in this run."""


class Source(Protocol):
    """Random access to Examples.

    Used where there: `kinds`, the kinds of its Examples (else its name alone); `fingerprint`, text
    that changes whenever its content does (else a dataclass's fields); `answers()`, those whose
    length depends on the data, which are checked before the run starts.
    """

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Example: ...


class BatchIterator(Iterator[dict[str, jax.Array]]):
    """Yields global batches; made by `make_iterator`.

    Attributes:
      sources: names, in the order of the batch's `source` numbers.
      datasets: the sources themselves, by name, in this order.
      kinds: names, in the order of the batch's `kind` numbers.
      plan: the ShareMap that says which source each example is from.
      wait_seconds: time spent inside `next` so far, waiting for data.
      encoder: the ExampleEncoder, which counts clipped prompts.
    """

    def __init__(
        self,
        examples,
        *,
        host_rows,
        batches,
        batch_size,
        place,
        fingerprint,
        datasets,
        kinds,
        plan,
        encoder,
        threads,
        read_ahead,
    ):
        self._examples, self._host_rows = examples, host_rows
        self._batches, self._batch_size = batches, batch_size
        self._place, self._fingerprint = place, fingerprint
        self._threads, self._read_ahead = threads, read_ahead
        self.sources, self.kinds, self.encoder = tuple(datasets), tuple(kinds), encoder
        self.datasets, self.plan = dict(datasets), plan
        self.wait_seconds = 0.0
        self._position = 0
        self._queue: queue.Queue | None = None
        self._stop = threading.Event()
        self._worker: threading.Thread | None = None

    def __iter__(self) -> BatchIterator:
        return self

    def __next__(self) -> dict[str, jax.Array]:
        """The next batch.

        images uint8 [B, F, H, W, 3], prompt int32 [B, P], target int32 [B, T] (answer, action, EOS;
        zero-padded on the right), source, kind, index int32 [B] (number of the example in the run).

        Raises:
          StopIteration: after the last batch of the run.
        """
        start = time.perf_counter()
        if self._position >= self._batches:
            raise StopIteration
        if self._worker is None:
            self._start()
        batch = self._queue.get()
        self.wait_seconds += time.perf_counter() - start
        if isinstance(batch, BaseException):
            self.close()
            raise batch
        self._position += 1
        return batch

    def get_state(self) -> dict[str, Any]:
        """JSON-serialisable: the number of batches handed out and what gives it meaning."""
        return {'batches': self._position, 'fingerprint': self._fingerprint}

    def set_state(self, state: Mapping[str, Any] | str) -> None:
        """Goes to where `state` was taken; takes get_state's dict or its JSON.

        Raises:
          StateMismatch: if it was taken with other settings or data; names the fields that differ.
        """
        state = json.loads(state) if isinstance(state, str) else state
        if missing := {'batches', 'fingerprint'} - set(state):
            raise StateMismatch(
                f"this isn't the state of a data iterator: it lacks {sorted(missing)}"
            )
        theirs, ours = dict(state['fingerprint']), self._fingerprint
        differing = [k for k in sorted({*theirs, *ours}) if theirs.get(k) != ours.get(k)]
        if differing:
            lines = [f'  {k}: was {theirs.get(k)!r}, is {ours.get(k)!r}' for k in differing]
            raise StateMismatch(
                'the data state was saved with other settings or other data, so its position in '
                'them means something else now:\n'
                + '\n'.join(lines)
                + '.\nRestore them, or start a new workdir; there config.init_from starts from the '
                'parameters of this run'
            )
        if not 0 <= state['batches'] <= self._batches:
            raise StateMismatch(
                f'the data state is at batch {state["batches"]}; this run has {self._batches}'
            )
        self.close()
        self._position = int(state['batches'])

    def close(self) -> None:
        """Stops reading ahead; a later `next` starts again at the same place."""
        atexit.unregister(self.close)
        self._stop.set()
        if self._worker is not None:
            while self._worker.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    pass
            self._worker.join()
        self._worker = self._queue = None

    def _start(self) -> None:
        self._stop = threading.Event()
        self._queue = queue.Queue(maxsize=self._read_ahead)
        self._worker = threading.Thread(
            target=self._produce, args=(self._position, self._queue, self._stop), daemon=True
        )
        self._worker.start()
        # A thread that is still placing arrays while the interpreter goes down may crash it.
        atexit.register(self.close)

    def _produce(self, position: int, out: queue.Queue, stop: threading.Event) -> None:
        numbers = (
            [batch * self._batch_size + row for row in self._host_rows]
            for batch in range(position, self._batches)
        )
        batches = batching.read(self._write, self.encoder.shapes, numbers, self._threads)
        try:
            for batch in batches:
                out.put(self._place(batch))
                if stop.is_set():
                    return
        except BaseException as error:  # pylint: disable=broad-exception-caught
            out.put(error)
        finally:
            batches.close()

    def _write(self, numbers: Sequence[int], rows: Mapping[str, np.ndarray]) -> None:
        self.encoder.write(numbers, self._examples.examples(numbers), rows)


def rows_of_host(sharding: jax.sharding.Sharding, batch_size: int) -> list[int]:
    """Rows of the global batch that this process's devices hold, by the sharding of axis 0.

    Raises:
      ValueError: the sharding can't share out so many rows.
    """
    try:
        taken_by_device = sharding.addressable_devices_indices_map((batch_size,))
    except ValueError as error:
        raise ValueError(
            f'a batch of {batch_size} examples cannot be shared out evenly over '
            f'{sharding.num_devices} devices'
        ) from error
    rows: set[int] = set()
    for (taken,) in taken_by_device.values():
        rows.update(range(*taken.indices(batch_size)))
    return sorted(rows)


def make_iterator(
    robot: Mapping[str, tuple[Source, float | Schedule]],
    web: Mapping[str, tuple[Source, float | Schedule]],
    *,
    tokenizer: Any,
    schedule: Schedule,
    batches: int,
    batch_size: int,
    image_size: int,
    prompt_length: int,
    target_length: int,
    frames: int = 1,
    seed: int = 0,
    augment: Augmentation = Augmentation(),
    evaluation: bool = False,
    sharding: jax.sharding.Sharding | None = None,
    rows: Sequence[int] | None = None,
    threads: int = 2,
    read_ahead: int = 2,
) -> BatchIterator:
    """A mixture of sources as an iterator of global batches.

    Args:
      robot: robot sources and their weights within the robot share, by name; a weight is a number
        or a Schedule.
      web: the other sources and their weights within the rest, by name.
      tokenizer: text tokenizer.
      schedule: robot share by step.
      batches: batches in the run (a run resumed with more goes on the same way).
      batch_size: global batch size B.
      image_size: side of the frames, pixels.
      prompt_length: tokens a prompt, P.
      target_length: tokens a target with EOS, T.
      frames: frames an example, F.
      seed: of the shuffles, each source having its own permutation an epoch, and of the augmentation.
      augment: what is done to frames at random.
      evaluation: frames are shown as a policy sees them (see Augmentation), not at random.
      sharding: of axis 0 of the batch; it decides which rows this process reads. Without it, the
        whole batch goes to the default device.
      rows: rows to read, as numpy arrays, instead of those that `sharding` says (tests, tools).
      threads: reading threads.
      read_ahead: batches ready ahead of use.

    Raises:
      ValueError: a name used twice, an empty source, a share without sources.
    """
    named = {**robot, **web}
    if len(named) != len(robot) + len(web):
        raise ValueError(f'a source is both robot and web: {sorted(set(robot) & set(web))}')
    for name, (source, _) in named.items():
        if not len(source):
            raise ValueError(f'source {name!r} is empty')
    kinds = sorted({kind for name, (source, _) in named.items() for kind in _kinds(name, source)})
    actions = {
        name: ActionTokenizer(source.action_space, tokenizer)
        for name, (source, _) in named.items()
        if getattr(source, 'action_space', None) is not None
    }
    encoder = ExampleEncoder(
        tokenizer,
        actions,
        image_size=image_size,
        prompt_length=prompt_length,
        target_length=target_length,
        sources=list(named),
        kinds=kinds,
        frames=frames,
        view=(
            functools.partial(_shown, augment, image_size, None if evaluation else seed)
            if augment.to_json()
            else None
        ),
    )
    for name, (source, _) in named.items():
        if hasattr(source, 'answers'):
            encoder.check_answers(source.answers(), name)
    plan = make_plan(robot, web, schedule, batches, batch_size)
    endless = {name: _endless(name, source, seed) for name, (source, _) in named.items()}
    if rows is None:
        place = functools.partial(_global_arrays, sharding=sharding, batch_size=batch_size)
        rows = rows_of_host(sharding, batch_size) if sharding else range(batch_size)
    else:
        place = dict
    fingerprint = {
        'format': STATE_FORMAT,
        'batch_size': batch_size,
        'seed': seed,
        'schedule': schedule.to_json(),
        'image_size': image_size,
        'prompt_length': prompt_length,
        'target_length': target_length,
        'tokenizer': hashlib.sha256(tokenizer.model_bytes).hexdigest()[:16],
    }
    if frames > 1:
        fingerprint['frames'] = frames
    if augment.to_json():
        fingerprint['augment'] = 'as seen by a policy' if evaluation else augment.to_json()
    for side, group in (('robot', robot), ('web', web)):
        fingerprint[f'{side}_sources'] = list(group)
        for name, (source, weight) in group.items():
            fingerprint[f'source {name!r}'] = _identity(source, weight)
    return BatchIterator(
        order.Mixed(plan, endless),
        host_rows=list(rows),
        batches=batches,
        batch_size=batch_size,
        place=place,
        fingerprint=fingerprint,
        datasets={name: source for name, (source, _) in named.items()},
        kinds=kinds,
        plan=plan,
        encoder=encoder,
        threads=threads,
        read_ahead=read_ahead,
    )


def _kinds(name: str, source: Source) -> Sequence[str]:
    return getattr(source, 'kinds', None) or (name,)


def make_plan(
    robot: Mapping[str, tuple[Source, float | Schedule]],
    web: Mapping[str, tuple[Source, float | Schedule]],
    schedule: Schedule,
    batches: int,
    batch_size: int,
) -> ShareMap:
    """Which source each example of a run is from; arguments as for `make_iterator`."""
    weights = {
        side: tuple(
            weight if isinstance(weight, Schedule) else Schedule(start=weight)
            for _, weight in group.values()
        )
        for side, group in (('robot', robot), ('web', web))
    }
    return ShareMap(Mixture(schedule, **weights), batches, batch_size)


def _identity(source: Source, weight: float | Schedule) -> dict[str, Any]:
    space = getattr(source, 'action_space', None)
    fields = repr(source) if dataclasses.is_dataclass(source) else ''
    return {
        'weight': json.loads(weight.to_json()) if isinstance(weight, Schedule) else float(weight),
        'length': len(source),
        'fingerprint': str(getattr(source, 'fingerprint', fields)),
        'action_space': hashlib.sha256(space.to_json().encode()).hexdigest()[:16] if space else '',
    }


def _endless(name: str, source: Source, seed: int) -> order.Endless:
    # The epoch is added to the seed, so neighbouring seeds would share permutations.
    own = int.from_bytes(hashlib.sha256(f'{seed}/{name}'.encode()).digest()[:4], 'little')
    return order.Endless(source, own)


def _shown(
    augment: Augmentation,
    size: int,
    seed: int | None,
    example: Example,
    number: int,
    out: np.ndarray,
) -> None:
    if seed is None:
        augment.evaluation(example.frames, size, is_cropped(example), out)
    else:
        augment.training(example, size, seed, number, out)


def _global_arrays(batch, *, sharding, batch_size: int) -> dict[str, jax.Array]:
    if sharding is None:
        return jax.device_put(batch)
    # Without global_shape, a replicated array could silently differ between processes.
    return {
        key: jax.make_array_from_process_local_data(
            sharding, value, global_shape=(batch_size, *value.shape[1:])
        )
        for key, value in batch.items()
    }
