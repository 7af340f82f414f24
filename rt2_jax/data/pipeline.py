"""Sources and a mixture -> batches of global JAX arrays, resumable to the bit.

The n-th example of a run is a pure function of n, the sources and the settings, so the state is
the number of batches handed out, and any number of hosts produces the same global batches.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable, Iterator, Mapping, Sequence
import dataclasses
import functools
import hashlib
import json
import queue
import threading
import time
from typing import Any

import jax
import numpy as np

from rt2_jax.data.batching import BatchReader
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.example import Source
from rt2_jax.data.mixture import Mixture, MixtureSchedule, Sources, Weighted
from rt2_jax.data.order import RunExamples
from rt2_jax.errors import UserError
from rt2_jax.text.actions import ActionTokenizer

# 2: every source's share, not only the robots' together, is kept in each batch.
STATE_FORMAT = 2


class StateMismatch(UserError, ValueError):
    """A data position that means something else in this run."""


class BatchIterator(Iterator[dict[str, jax.Array]]):
    """Yields global batches; made by `make_iterator`.

    Args:
        reader: reads batches by the numbers of their examples.
        schedule: which source each example comes from.
        sources: by name, in the order of the batch's `source` numbers.
        encoder: the reader's.
        rows: of the global batch, those that this process reads.
        place: turns what was read into the arrays of a batch.
        fingerprint: what gives the position its meaning; JSON-serialisable.
        read_ahead: batches ready ahead of use.

    Attributes:
        sources: names, in the order of the batch's `source` numbers.
        kinds: names, in the order of the batch's `kind` numbers.
        acting_kinds: those of them whose answers end with an action.
        datasets: the sources themselves, by name.
        schedule: which source each example comes from.
        encoder: the ExampleEncoder, which counts clipped prompts.
        wait_seconds: time spent inside `next` so far, waiting for data.
    """

    def __init__(
        self,
        reader: BatchReader,
        schedule: MixtureSchedule,
        sources: Mapping[str, Source],
        encoder: ExampleEncoder,
        *,
        rows: Sequence[int],
        place: Callable[[dict[str, np.ndarray]], dict[str, Any]],
        fingerprint: dict[str, Any],
        read_ahead: int,
    ) -> None:
        self.sources, self.kinds = tuple(sources), _kinds(sources)
        acting = [getattr(source, 'acting_kinds', ()) for source in sources.values()]
        self.acting_kinds = frozenset().union(*acting)
        self.datasets, self.schedule, self.encoder = dict(sources), schedule, encoder
        self.wait_seconds = 0.0
        self._reader, self._rows, self._place = reader, rows, place
        self._fingerprint, self._read_ahead = fingerprint, read_ahead
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
        if self._position >= self.schedule.batches:
            raise StopIteration
        if self._queue is None:
            self._queue = self._start()
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
        if not 0 <= state['batches'] <= self.schedule.batches:
            raise StateMismatch(
                f'the data state is at batch {state["batches"]}; this run has {self.schedule.batches}'
            )
        self.close()
        self._position = int(state['batches'])

    def close(self) -> None:
        """Stops reading ahead; a later `next` starts again at the same place."""
        atexit.unregister(self.close)
        self._stop.set()
        if self._worker is not None and self._queue is not None:
            while self._worker.is_alive():
                try:
                    self._queue.get(timeout=0.05)
                except queue.Empty:
                    pass
            self._worker.join()
        self._worker = self._queue = None

    def _start(self) -> queue.Queue:
        """Starts to read ahead into a new queue."""
        ahead: queue.Queue = queue.Queue(maxsize=self._read_ahead)
        self._stop = threading.Event()
        self._worker = threading.Thread(
            target=self._produce, args=(self._position, ahead, self._stop), daemon=True
        )
        self._worker.start()
        # A thread that is still placing arrays while the interpreter goes down may crash it.
        atexit.register(self.close)
        return ahead

    def _produce(self, position: int, out: queue.Queue, stop: threading.Event) -> None:
        """Puts batches from `position` on into the queue, at last the error that ended it."""
        size = self.schedule.batch_size
        numbers = (
            [batch * size + row for row in self._rows]
            for batch in range(position, self.schedule.batches)
        )
        batches = self._reader.read(numbers)
        try:
            for batch in batches:
                out.put(self._place(batch))
                if stop.is_set():
                    return
        except BaseException as error:  # pylint: disable=broad-exception-caught
            out.put(error)
        finally:
            batches.close()


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
    for taken in taken_by_device.values():
        rows.update(np.arange(batch_size)[taken].tolist())
    return sorted(rows)


def make_iterator(
    sources: Sources,
    tokenizer: Any,
    data: DataConfig,
    *,
    batches: int,
    batch_size: int,
    seed: int = 0,
    evaluation: bool = False,
    sharding: jax.sharding.Sharding | None = None,
    rows: Sequence[int] | None = None,
) -> BatchIterator:
    """A mixture of sources as an iterator of global batches.

    Args:
        sources: of the run, with their weights.
        tokenizer: text tokenizer.
        data: what a batch holds, and the robots' share of it by step.
        batches: batches in the run (a run resumed with more goes on the same way).
        batch_size: global batch size B.
        seed: of the shuffles, each source having its own permutation an epoch, and of the augmentation.
        evaluation: frames are shown as a policy sees them (see Augmentation), not at random.
        sharding: of axis 0 of the batch; it decides which rows this process reads. Without it, the
            whole batch goes to the default device.
        rows: rows to read, as numpy arrays, instead of those that `sharding` says (tests, tools).

    Raises:
        ValueError: a name used twice, an empty source, a share without sources.
    """
    named = sources.by_name()
    if len(named) != len(sources.robot) + len(sources.web):
        both = sorted(set(sources.robot) & set(sources.web))
        raise ValueError(f'a source is both robot and web: {both}')
    for name, source in named.items():
        if not len(source):
            raise ValueError(f'source {name!r} is empty')
    encoder = _encoder(named, tokenizer, data, None if evaluation else seed)
    schedule = MixtureSchedule(Mixture.of(sources, data.robot_share), batches, batch_size)
    reader = BatchReader(RunExamples(schedule, named, seed), encoder, data.threads)
    place: Callable[[dict[str, np.ndarray]], dict[str, Any]] = dict
    if rows is None:
        place = functools.partial(_global_arrays, sharding=sharding, batch_size=batch_size)
        rows = rows_of_host(sharding, batch_size) if sharding else range(batch_size)
    return BatchIterator(
        reader,
        schedule,
        named,
        encoder,
        rows=list(rows),
        place=place,
        fingerprint=_fingerprint(sources, tokenizer, data, batch_size, seed, evaluation),
        read_ahead=data.read_ahead,
    )


def _encoder(
    sources: Mapping[str, Source], tokenizer: Any, data: DataConfig, seed: int | None
) -> ExampleEncoder:
    """The encoder of a run; its prompts and answers of known text are checked."""
    spaces = {name: getattr(source, 'action_space', None) for name, source in sources.items()}
    actions = {name: ActionTokenizer(space, tokenizer) for name, space in spaces.items() if space}
    encoder = ExampleEncoder(
        tokenizer, data, sources=list(sources), kinds=_kinds(sources), actions=actions, seed=seed
    )
    for name, source in sources.items():
        if hasattr(source, 'prompts'):
            encoder.check_prompts(source.prompts(), name)
        if hasattr(source, 'answers'):
            encoder.check_answers(source.answers(), name)
    return encoder


def _kinds(sources: Mapping[str, Source]) -> tuple[str, ...]:
    kinds = [getattr(source, 'kinds', None) or (name,) for name, source in sources.items()]
    return tuple(sorted(set().union(*kinds)))


def _fingerprint(
    sources: Sources, tokenizer: Any, data: DataConfig, batch_size: int, seed: int, evaluation: bool
) -> dict[str, Any]:
    """What gives a position in the batches its meaning; keys and values are kept in checkpoints."""
    fingerprint = {
        'format': STATE_FORMAT,
        'batch_size': batch_size,
        'seed': seed,
        'schedule': data.robot_share.to_json(),
        'image_size': data.image_size,
        'prompt_length': data.prompt_length,
        'target_length': data.target_length,
        'tokenizer': hashlib.sha256(tokenizer.model_bytes).hexdigest()[:16],
    }
    if data.frames > 1:
        fingerprint['frames'] = data.frames
    if data.cameras:
        fingerprint['cameras'] = list(data.cameras)
    if augment := data.augment.to_json():
        fingerprint['augment'] = 'as seen by a policy' if evaluation else augment
    for side, group in sources._asdict().items():
        fingerprint[f'{side}_sources'] = list(group)
        for name, weighted in group.items():
            fingerprint[f'source {name!r}'] = _identity(weighted)
    return fingerprint


def _identity(weighted: Weighted) -> dict[str, Any]:
    source, weight = weighted
    space = getattr(source, 'action_space', None)
    fields = repr(source) if dataclasses.is_dataclass(source) else ''
    return {
        'weight': json.loads(weight.to_json()),
        'length': len(source),
        'fingerprint': str(getattr(source, 'fingerprint', fields)),
        'action_space': hashlib.sha256(space.to_json().encode()).hexdigest()[:16] if space else '',
    }


def _global_arrays(
    batch: Mapping[str, np.ndarray], *, sharding: jax.sharding.Sharding | None, batch_size: int
) -> dict[str, jax.Array]:
    if sharding is None:
        return jax.device_put(dict(batch))
    # Without global_shape, a replicated array could silently differ between processes.
    return {
        key: jax.make_array_from_process_local_data(
            sharding, value, global_shape=(batch_size, *value.shape[1:])
        )
        for key, value in batch.items()
    }
