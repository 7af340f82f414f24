"""Examples -> frames and tokens: rows of a batch, as arrays of fixed size."""

from collections.abc import Callable, Iterable, Mapping, Sequence
import functools
import threading
from typing import Any

from absl import logging
import numpy as np

from rt2_jax.data import images
from rt2_jax.data.example import Example
from rt2_jax.nearest import nearest
from rt2_jax.text import plan_marker, prompts
from rt2_jax.text.actions import ActionTokenizer

_NOTHING = np.zeros([0], np.int32)


class ExampleEncoder:
    """Examples -> rows of a batch, as fixed-size numpy arrays.

    Args:
      tokenizer: text tokenizer.
      actions: the action tokenizer of each source that has actions, by the source's name.
      image_size: frames are resized to this.
      prompt_length: tokens a prompt, P. A longer one is clipped at the end, counted and logged.
      target_length: tokens a target, T, EOS included. A longer one is an error, or clipped, counted
        and logged where the Example allows it; it then has no EOS.
      sources: names of the sources, in the order of the batch's `source` numbers.
      kinds: names of the kinds, in the order of the batch's `kind` numbers.
      frames: frames an example, F. A single picture is shown as one that stood still.
      view: view(example, number, out) writes the example's frames to uint8 [frames, S, S, 3], S the
        image size; by default they are resized and no more.

    Attributes:
      shapes: shape and dtype of each of a row's arrays; see `write`.
      clipped_prompts: how many prompts were clipped so far.
      clipped_answers: likewise.
    """

    def __init__(
        self,
        tokenizer: Any,
        actions: Mapping[str, ActionTokenizer],
        *,
        image_size: int,
        prompt_length: int,
        target_length: int,
        sources: Sequence[str],
        kinds: Sequence[str],
        frames: int = 1,
        view: Callable[[Example, int, np.ndarray], Any] | None = None,
    ):
        self._tokenizer, self._actions = tokenizer, dict(actions)
        self._view, self._image_size, self._frames = view, image_size, frames
        self._prompt_length, self._target_length = prompt_length, target_length
        self.shapes = {
            'images': ((frames, image_size, image_size, 3), np.uint8),
            'prompt': ((prompt_length,), np.int32),
            'target': ((target_length,), np.int32),
            **{name: ((), np.int32) for name in ('source', 'kind', 'index')},
        }
        self._action_lengths = {name: coder.length for name, coder in self._actions.items()}
        self._sources = {name: i for i, name in enumerate(sources)}
        self._kinds = {name: i for i, name in enumerate(kinds)}
        self._encode_text = functools.lru_cache(maxsize=1 << 15)(
            lambda text: np.array(tokenizer.encode(text), np.int32)
        )
        self._lock = threading.Lock()
        self.clipped_prompts = 0
        self.clipped_answers = 0

    def __call__(self, example: Example, source: str, number: int = 0) -> dict[str, np.ndarray]:
        """The row of the run's `number`-th example, from the source of this name; see `write`."""
        rows = {name: np.empty((1, *shape), dtype) for name, (shape, dtype) in self.shapes.items()}
        self.write([number], [(source, example)], rows)
        return {name: array[0] for name, array in rows.items()}

    def write(
        self,
        numbers: Sequence[int],
        examples: Iterable[tuple[str, Example]],
        rows: Mapping[str, np.ndarray],
    ) -> None:
        """Writes examples of a run into rows of a batch.

        Args:
          numbers: of the examples in the run.
          examples: each after its source's name; no longer needed once the next is asked for.
          rows: images uint8 [N, F, H, W, 3], prompt int32 [N, P], target int32 [N, T] (answer, action,
            EOS, zero-padded on the right), source, kind, index (of the number) int32 [N].

        Raises:
          ValueError: a target longer than T, an unknown kind, an action without a tokenizer.
        """
        said, examples = [], iter(examples)
        for number, out in zip(numbers, rows['images'], strict=True):
            source, example = next(examples)
            self._show(example, source, number, out)
            said.append(
                (source, example.kind, example.prompt, example.answer, example.action, example.clip)
            )
            del example  # so that the next one's frames lie in the same memory
        # Only now, since work between pictures, which fill a processor's caches, takes several times
        # as long.
        rows['index'][:] = np.mod(numbers, 1 << 31)
        self._write_texts(said, rows)

    def check_answers(self, answers: Iterable[str], source: str) -> None:
        """Refuses answers that couldn't be targets, before a run meets them in its middle.

        Args:
          answers: of a source; one that ends in "Action:" has an action after it.
          source: its name.

        Raises:
          ValueError: an answer longer than T, or a plan whose "Action:" isn't told from its text.
        """
        marker = plan_marker.marker_ids(self._tokenizer)
        for answer in answers:
            ids = list(self._encode_text(answer))
            planned = answer.endswith(prompts.ACTION_MARKER)
            if planned and not plan_marker.is_plan(ids, marker):
                raise ValueError(
                    f'source {source!r}: {prompts.ACTION_MARKER!r} must end a plan and stand nowhere '
                    f'else in it, in tokens too: {answer!r}'
                )
            length = len(ids) + 1 + (self._actions[source].length if planned else 0)
            if length > self._target_length:
                self._refuse_length(length, source, answer)

    def _refuse_length(self, length: int, source: str, answer: str, prompt: str = '') -> None:
        raise ValueError(
            f"source {source!r}: an answer of {length} tokens doesn't fit "
            f'config.data.target_length={self._target_length}: {answer!r}'
            + (f' to {prompt!r}' if prompt else '')
        )

    def _show(self, example: Example, source: str, number: int, out: np.ndarray) -> None:
        count = len(example.frames)
        if count not in (1, self._frames):
            raise ValueError(
                f'source {source!r} yields {count} frames an example; '
                f'config.data.frames={self._frames}'
            )
        if self._view is None:
            images.resize(example.frames, self._image_size, out[:count])
        else:
            self._view(example, number, out[:count])
        if count < self._frames:
            out[count:] = out[0]  # as a picture that stood still

    def _write_texts(self, said: Sequence[tuple], rows: Mapping[str, np.ndarray]) -> None:
        """Writes all but frames; `said` has source, kind, prompt, answer, action, clip of each row."""
        rows['source'][:] = [self._sources[source] for source, *_ in said]
        rows['kind'][:] = [self._kind(kind, source) for source, kind, *_ in said]
        rows['prompt'][:], rows['target'][:] = 0, 0
        actions: dict[str, list[tuple[int, int, np.ndarray]]] = {}
        for row, (source, _, prompt, answer, action, clip) in enumerate(said):
            ids = self._prompt(prompt)
            rows['prompt'][row, : len(ids)] = ids
            ids, end = self._answer(source, prompt, answer, action, clip)
            rows['target'][row, : len(ids)] = ids
            rows['target'][row, end : end + 1] = self._tokenizer.eos_id  # none if clipped: end is T
            if action is not None:
                actions.setdefault(source, []).append((row, len(ids), action))
        for source, found in actions.items():
            self._write_actions(source, found, rows['target'])

    def _kind(self, kind: str, source: str) -> int:
        if kind not in self._kinds:
            raise ValueError(
                f'source {source!r} yields an example of kind {kind!r}, which no source '
                'declares in its `kinds`' + nearest(kind, self._kinds)
            )
        return self._kinds[kind]

    def _prompt(self, text: str) -> np.ndarray:
        """Ids int32 [at most P]; clipped if too long, counted and logged."""
        ids = self._encode_text(text)
        if len(ids) > self._prompt_length:
            self._count_clipped(
                'clipped_prompts',
                f'a prompt of {len(ids)} tokens was clipped to {self._prompt_length} (%d so far): '
                '%r; raise config.data.prompt_length to keep it whole',
                text,
            )
        return ids[: self._prompt_length]

    def _answer(
        self, source: str, prompt: str, answer: str, action: np.ndarray | None, clip: bool
    ) -> tuple[np.ndarray, int]:
        """Ids int32 of an answer, and the place of EOS: behind them and the action."""
        ids = self._encode_text(answer) if answer else _NOTHING
        end = len(ids)
        if action is not None:
            if len(action) != self._action_lengths.get(source):
                self._refuse_action(action, source)
            end += len(action)
        elif clip and end >= self._target_length:
            self._count_clipped(
                'clipped_answers',
                f'an answer of {end + 1} tokens was clipped to {self._target_length} (%d so far): '
                'source %r; raise config.data.target_length to keep such answers whole',
                source,
            )
            return ids[: self._target_length], self._target_length
        if end >= self._target_length:
            self._refuse_length(end + 1, source, answer, prompt)
        return ids, end

    def _refuse_action(self, action: np.ndarray, source: str) -> None:
        if source not in self._actions:
            raise ValueError(
                f'source {source!r} yields actions but has no action tokenizer'
                + nearest(source, self._actions)
            )
        coder = self._actions[source]
        raise ValueError(
            f'source {source!r}: an action of {len(action)} numbers, where its action '
            f'space has {coder.length}: {", ".join(coder.space.number_names)}'
        )

    def _write_actions(self, source: str, found: Sequence[tuple], targets: np.ndarray) -> None:
        """Writes actions to targets int32 [N, T]; `found` has the row, place and numbers of each."""
        rows, places, actions = zip(*found)
        ids = self._actions[source].encode(np.array(actions))
        columns = np.add.outer(places, np.arange(ids.shape[1]))
        targets[np.array(rows)[:, None], columns] = ids

    def _count_clipped(self, counter: str, message: str, about: str) -> None:
        """Counts one more, and says so at each power of two."""
        with self._lock:
            count = getattr(self, counter) + 1
            setattr(self, counter, count)
        if count & (count - 1) == 0:
            logging.warning(message, count, about)
