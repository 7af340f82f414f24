"""Examples -> frames and tokens: rows of a batch, as arrays of fixed size."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
import dataclasses
import functools
import threading
from typing import Any, NoReturn

from absl import logging
import numpy as np

from rt2_jax.data.augmentation import is_cropped
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.example import Example
from rt2_jax.data.order import RunExample
from rt2_jax.nearest import nearest
from rt2_jax.text import plan_marker, prompts
from rt2_jax.text.actions import ActionTokenizer

_NOTHING = np.zeros([0], np.int32)


@dataclasses.dataclass(slots=True)
class _Text:
    """An example of a run without its frames."""

    number: int
    source: str
    kind: str
    prompt: str
    answer: str
    actions: tuple[np.ndarray, ...]  # oldest first
    clip: bool
    open_end: bool


@dataclasses.dataclass(slots=True)
class _PlacedAction:
    """An action [L], and where its tokens begin in a batch's `target`."""

    row: int
    column: int
    numbers: np.ndarray


class ExampleEncoder:
    """Examples -> rows of a batch, as fixed-size numpy arrays.

    A prompt longer than `data.prompt_length` is clipped at the end, counted and logged. A target longer
    than `data.target_length`, EOS included, is an error, or clipped, counted and logged where the
    Example allows it; it then has no EOS. A single picture is shown as one that stood still before all
    cameras.

    Args:
        tokenizer: text tokenizer.
        data: frame size and number, lengths in tokens, augmentation.
        sources: names of the sources, in the order of the batch's `source` numbers.
        kinds: names of the kinds, in the order of the batch's `kind` numbers.
        actions: the action tokenizer of each source that has actions, by the source's name.
        seed: of the augmentation; None shows frames as a policy sees them, not at random.

    Attributes:
        shapes: shape and dtype of each of a row's arrays; see `write`.
        clipped_prompts: how many prompts were clipped so far.
        clipped_answers: how many answers were clipped so far.
    """

    def __init__(
        self,
        tokenizer: Any,
        data: DataConfig,
        *,
        sources: Sequence[str],
        kinds: Sequence[str],
        actions: Mapping[str, ActionTokenizer],
        seed: int | None = 0,
    ) -> None:
        self._tokenizer, self._data, self._seed = tokenizer, data, seed
        self._actions = dict(actions)
        frame = (data.image_size, data.image_size, 3)
        self.shapes = {
            'images': ((data.pictures, *frame), np.uint8),
            'prompt': ((data.prompt_length,), np.int32),
            'target': ((data.target_length,), np.int32),
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
        self.write([RunExample(number, source, example)], rows)
        return {name: array[0] for name, array in rows.items()}

    def write(self, examples: Iterable[RunExample], rows: Mapping[str, np.ndarray]) -> None:
        """Writes examples of a run into rows of a batch.

        Args:
            examples: as many as there are rows; each is let go of before the next is asked for.
            rows: images uint8 [N, F, H, W, 3], prompt int32 [N, P], target int32 [N, T] (answer,
                actions, EOS, zero-padded on the right), source, kind, index (of the number) int32 [N].

        Raises:
            ValueError: a target longer than T, an unknown kind, an action without a tokenizer.
        """
        texts, examples = [], iter(examples)
        for out in rows['images']:
            number, source, example = next(examples)
            self._write_frames(example, source, number, out)
            texts.append(
                _Text(
                    number,
                    source,
                    example.kind,
                    example.prompt,
                    example.answer,
                    _actions(example),
                    example.clip,
                    example.open_end,
                )
            )
            del example  # so that the next one's frames lie in the same memory
        # Only now, since work between pictures, which fill a processor's caches, takes several times
        # as long.
        self._write_texts(texts, rows)

    def check_prompts(self, texts: Iterable[str], source: str) -> None:
        """Refuses prompts of a source that would be clipped; ValueError names one."""
        longest = self._data.prompt_length
        for text in texts:
            if (length := len(self._encode_text(text))) > longest:
                raise ValueError(
                    f"source {source!r}: a prompt of {length} tokens doesn't fit "
                    f'config.data.prompt_length={longest}: {text!r}'
                )

    def check_answers(self, answers: Iterable[str], source: str) -> None:
        """Refuses answers that couldn't be targets, before a run meets them in its middle.

        Args:
            answers: of a source; one that ends in "Action:" has an action after it, if the source acts.
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
            acts = planned and source in self._actions
            length = len(ids) + 1 + (self._actions[source].length if acts else 0)
            if length > self._data.target_length:
                self._refuse_length(length, source, answer)

    def _write_frames(self, example: Example, source: str, number: int, out: np.ndarray) -> None:
        """Writes an example's frames, resized and augmented, to uint8 [F, S, S, 3]."""
        count, data = len(example.frames), self._data
        if count not in (1, data.pictures):
            raise ValueError(
                f'source {source!r} yields {count} pictures an example; config.data.frames={data.frames} '
                f'and config.data.cameras={data.cameras} make {data.pictures}'
            )
        if self._seed is None:
            cropped = is_cropped(example)
            data.augment.evaluation(example.frames, data.image_size, cropped, out[:count])
        else:
            data.augment.training(example, data.image_size, self._seed, number, out[:count])
        if count < data.pictures:
            out[count:] = out[0]  # as a picture that stood still, before all cameras

    def _write_texts(self, texts: Sequence[_Text], rows: Mapping[str, np.ndarray]) -> None:
        """Writes all but the frames."""
        rows['index'][:] = np.mod([text.number for text in texts], 1 << 31)
        rows['source'][:] = [self._sources[text.source] for text in texts]
        rows['kind'][:] = [self._kind(text) for text in texts]
        rows['prompt'][:], rows['target'][:] = 0, 0
        actions: dict[str, list[_PlacedAction]] = {}
        for row, text in enumerate(texts):
            ids = self._prompt(text.prompt)
            rows['prompt'][row, : len(ids)] = ids
            ids, end = self._answer(text)
            rows['target'][row, : len(ids)] = ids
            rows['target'][row, end : end + 1] = self._tokenizer.eos_id  # end is T for none
            column = len(ids)
            for action in text.actions:
                placed = _PlacedAction(row, column, action)
                actions.setdefault(text.source, []).append(placed)
                column += len(action)
        for source, of_source in actions.items():
            self._write_actions(source, of_source, rows['target'])

    def _kind(self, text: _Text) -> int:
        if text.kind not in self._kinds:
            raise ValueError(
                f'source {text.source!r} yields an example of kind {text.kind!r}, which no source '
                'declares in its `kinds`' + nearest(text.kind, self._kinds)
            )
        return self._kinds[text.kind]

    def _prompt(self, text: str) -> np.ndarray:
        """Ids int32 [at most P]; clipped if too long, counted and logged."""
        ids = self._encode_text(text)
        longest = self._data.prompt_length
        if len(ids) > longest:
            self._count_clipped(
                'clipped_prompts',
                f'a prompt of {len(ids)} tokens was clipped to {longest} (%d so far): '
                '%r; raise config.data.prompt_length to keep it whole',
                text,
            )
        return ids[:longest]

    def _answer(self, text: _Text) -> tuple[np.ndarray, int]:
        """Ids int32 of an answer, and the column of EOS: behind them and the action.

        The column is T, where none is written, for an answer that is clipped or has an open end.
        """
        ids = self._encode_text(text.answer) if text.answer else _NOTHING
        end, longest = len(ids), self._data.target_length
        for action in text.actions:
            if len(action) != self._action_lengths.get(text.source):
                self._refuse_action(action, text.source)
            end += len(action)
        if not text.actions and text.clip and end >= longest:
            self._count_clipped(
                'clipped_answers',
                f'an answer of {end + 1} tokens was clipped to {longest} (%d so far): '
                'source %r; raise config.data.target_length to keep such answers whole',
                text.source,
            )
            return ids[:longest], longest
        if end >= longest:
            self._refuse_length(end + 1, text.source, text.answer, text.prompt)
        return ids, longest if text.open_end else end

    def _refuse_length(self, length: int, source: str, answer: str, prompt: str = '') -> NoReturn:
        raise ValueError(
            f"source {source!r}: an answer of {length} tokens doesn't fit "
            f'config.data.target_length={self._data.target_length}: {answer!r}'
            + (f' to {prompt!r}' if prompt else '')
        )

    def _refuse_action(self, action: np.ndarray, source: str) -> NoReturn:
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

    def _write_actions(
        self, source: str, placed: Sequence[_PlacedAction], targets: np.ndarray
    ) -> None:
        """Writes actions of one source to targets int32 [N, T]."""
        ids = self._actions[source].encode(np.array([action.numbers for action in placed]))
        rows = np.array([action.row for action in placed])
        columns = np.add.outer([action.column for action in placed], np.arange(ids.shape[1]))
        targets[rows[:, None], columns] = ids

    def _count_clipped(self, counter: str, message: str, about: str) -> None:
        """Counts one more, and logs it at each power of two."""
        with self._lock:
            count = getattr(self, counter) + 1
            setattr(self, counter, count)
        if count & (count - 1) == 0:
            logging.warning(message, count, about)


def _actions(example: Example) -> tuple[np.ndarray, ...]:
    """The actions of an example, oldest first."""
    if example.action is None:
        return ()
    return (example.action,) if example.earlier is None else (*example.earlier, example.action)
