"""Converts a robot data set: RLDS to LeRobot v3.0, or LeRobot (v2.1, v3.0) to RLDS.

    python -m rt2_jax.data.convert_episodes --dataset=DIR --card=NAME_OR_FILE --format=lerobot --output=DIR

Numbers stay as they are to the bit; pictures are encoded anew (video_writer.py; JPEG of quality 95).
What the other format can't hold is named. OUTPUT/card.json is the card with the names that the features have
there. An interrupted conversion goes on where it was when the same command runs again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
import dataclasses
import functools
import hashlib
import json
import os
import time
from typing import Any, NamedTuple

from absl import app, flags, logging
from etils import epath
import numpy as np

from rt2_jax import command, paths
from rt2_jax.data import cards, files, images, robot_card, worker_pool
from rt2_jax.data.data_errors import CorruptEpisode, CorruptRecord, DataSetError
from rt2_jax.data.readers import (
    lerobot_directory,
    lerobot_episodes,
    lerobot_info,
    rlds_schema,
    tfds_directory,
    tfrecord,
)
from rt2_jax.data.readers.lerobot_steps import StepReader
from rt2_jax.data.readers.rlds_episodes import SerializedEpisode
from rt2_jax.data.robot import lerobot_writer, rlds_writer
from rt2_jax.data.robot.lerobot_form import LeRobotForm
from rt2_jax.data.robot.rlds_form import RldsForm

FLAGS = flags.FLAGS

CARD_JSON, CONVERSION_JSON = 'card.json', 'conversion.json'
EPISODES_A_SHARD = 100  # of RLDS
NO_STEPS = 'LeRobot has no such episodes, so write the set without them'


class Part(NamedTuple):
    """Episodes that are written together.

    Attributes:
        split: their split.
        number: of the part within the split.
        start: number of the first episode within the split.
        stop: of the one behind the last.
    """

    split: str
    number: int
    start: int
    stop: int


@dataclasses.dataclass(frozen=True)
class ToLeRobot:
    """A conversion of RLDS. A part is a shard.

    Attributes:
        directory: of the RLDS data set's version.
        card: what its features mean.
        output: directory of the LeRobot data set.
    """

    directory: epath.PathLike
    card: robot_card.RobotCard
    output: epath.Path

    @functools.cached_property
    def parts(self) -> list[Part]:
        """All parts, split by split."""
        parts = []
        for split in tfds_directory.splits(self.directory):
            ends = np.cumsum(
                [n for _, n in tfds_directory.declared(self.directory, split)]
            ).tolist()
            parts += [Part(split, i, a, b) for i, (a, b) in enumerate(zip([0, *ends], ends))]
        return [part for part in parts if part.stop > part.start]

    @functools.cached_property
    def form(self) -> LeRobotForm:
        """How episodes change; the sizes of pictures are those of the first episode."""
        schema = rlds_schema.read(self.directory)
        rlds_schema.check_card(schema, self.card, self.directory)
        payload = next(self._payloads(self.parts[0]))
        first, sizes = SerializedEpisode(payload, schema), {}
        if not first.steps(rlds_schema.full_path(self.card.action[0].path)):
            raise DataSetError(f'{self.directory}: the first episode has no steps; {NO_STEPS}')
        for path, field in schema.items():
            if (
                field.dtype == 'picture'
                and path.startswith('steps/')
                and field.shape[-1] in (3, None)
            ):
                start, end = first.spans(path)[0].tolist()
                height, width = images.decode(payload[start:end]).shape[:2]
                sizes[path] = height, width
        return LeRobotForm(schema, self.card, sizes)

    @property
    def source(self) -> Any:
        """What changes when the data set does."""
        names = tfds_directory.splits(self.directory)
        declared = {name: tfds_directory.declared(self.directory, name) for name in names}
        paths = [files.path(self.directory) / n for rows in declared.values() for n, _ in rows]
        return declared, [stamp['size'] for stamp in files.stamps(paths)]

    @property
    def is_complete(self) -> bool:
        """Whether the output is whole."""
        return lerobot_directory.is_lerobot(self.output)

    def is_part(self, part: Part) -> bool:
        """Whether a part is there."""
        return lerobot_writer.is_part(self.output, self.parts.index(part))

    def write(self, part: Part) -> None:
        """Writes a part."""

        def episodes() -> Iterator[lerobot_writer.WrittenEpisode]:
            for payload in self._payloads(part):
                yield self._episode(payload)
                worker_pool.tick()

        number, form = self.parts.index(part), self.form
        try:
            lerobot_writer.write_part(self.output, number, form.features, form.fps, episodes())
        except CorruptRecord:
            raise
        except ValueError as error:
            shard = f'{self.directory}, shard {part.number} of split {part.split!r}'
            raise DataSetError(f'{shard}: {error}') from error

    def finish(self) -> None:
        """Declares the output whole."""
        splits: dict[str, int] = {}
        for part in self.parts:
            splits[part.split] = splits.get(part.split, 0) + part.stop - part.start
        lerobot_writer.finish(
            self.output,
            self.form.features,
            self.form.fps,
            parts=len(self.parts),
            splits=splits,
            robot=self.card.name,
            about_tasks=self.form.about_tasks,
        )

    def _payloads(self, part: Part) -> Iterator[bytes]:
        name, declared = tfds_directory.declared(self.directory, part.split)[part.number]
        path, count = os.fspath(files.path(self.directory) / name), 0
        for record in tfrecord.scan(path):
            if record.error:
                raise record.error
            assert record.payload is not None
            yield record.payload
            count += 1
        if count != declared:
            raise DataSetError(f'{path} has {count} episodes; {declared} are declared')

    def _episode(self, payload: bytes) -> lerobot_writer.WrittenEpisode:
        schema = self.form.schema
        stored = SerializedEpisode(payload, schema)
        steps = stored.steps(rlds_schema.full_path(self.card.action[0].path))
        if not steps:
            raise ValueError(f'an episode has no steps; {NO_STEPS}')
        instruction = rlds_schema.full_path(self.card.instruction)
        values: dict[str, Any] = {}
        for path in self.form.kept:
            rows = steps if path.startswith('steps/') else None
            if schema[path].dtype == 'text' or path == instruction:
                texts = stored.texts(path, rows)
                values[path] = texts if rows is not None else texts[0]
            elif schema[path].dtype != 'picture':
                values[path] = stored.numbers(path, rows)
        shown = {path: self._pictures(stored, path) for path in self.form.cameras.values()}
        return self.form.episode(values, shown, steps)

    def _pictures(self, stored: SerializedEpisode, path: str) -> Iterator[np.ndarray]:
        is_blue_first = path.removeprefix('steps/') in self.card.blue_first
        for start, end in stored.spans(path).tolist():
            pixels = images.decode(stored.payload[start:end])
            yield pixels[..., ::-1] if is_blue_first else pixels


@dataclasses.dataclass(frozen=True)
class ToRlds:
    """A conversion of LeRobot.

    Attributes:
        directory: of the LeRobot data set.
        card: what its features mean.
        output: directory of the RLDS data set.
    """

    directory: epath.PathLike
    card: robot_card.RobotCard
    output: epath.Path

    @functools.cached_property
    def form(self) -> RldsForm:
        """How episodes change."""
        info = lerobot_directory.info(self.directory)
        schema = lerobot_episodes.schema_of(info['features'])
        rlds_schema.check_card(schema, self.card, self.directory)
        return RldsForm(info, self.card)

    @property
    def source(self) -> Any:
        """What changes when the data set does."""
        names = [
            name for layout in self.layouts.values() for e in layout.episodes for name in e.files
        ]
        paths = [files.path(self.directory) / name for name in dict.fromkeys(names)]
        fingerprints = {name: layout.fingerprint for name, layout in self.layouts.items()}
        return fingerprints, [stamp['size'] for stamp in files.stamps(paths)]

    @functools.cached_property
    def layouts(self) -> dict[str, lerobot_directory.Layout]:
        """What the folder `meta` says of each split."""
        ranges = lerobot_info.splits(lerobot_directory.info(self.directory))
        names = [name for name, episodes in ranges.items() if episodes]
        return {
            name: lerobot_directory.read(self.directory, self.form.cameras, name) for name in names
        }

    @functools.cached_property
    def parts(self) -> list[Part]:
        """All parts, split by split."""
        parts = []
        for split, layout in self.layouts.items():
            starts = range(0, len(layout.episodes), EPISODES_A_SHARD)
            ends = [min(start + EPISODES_A_SHARD, len(layout.episodes)) for start in starts]
            parts += [Part(split, i, a, b) for i, (a, b) in enumerate(zip(starts, ends))]
        return parts

    @property
    def is_complete(self) -> bool:
        """Whether the output is whole."""
        return (self.output / rlds_writer.DATASET_INFO_JSON).exists()

    def is_part(self, part: Part) -> bool:
        """Whether a part is there."""
        return self._shard(part).exists()

    def write(self, part: Part) -> None:
        """Writes a part."""
        layout, form = self.layouts[part.split], self.form
        numbers = lerobot_directory.file_numbers(layout.episodes)
        reader = StepReader(self.directory, form.cameras, form.columns, layout, numbers)
        encode = rlds_writer.EpisodeEncoder(form.features)

        def payloads() -> Iterator[bytes]:
            for episode in layout.episodes[part.start : part.stop]:
                try:
                    columns = reader.steps(episode)
                    times = columns['timestamp'].reshape(-1)
                    shown = {
                        name: reader.pictures(episode, times, view)
                        for view, name in enumerate(form.cameras)
                    }
                    yield encode(form.episode(columns, shown))
                except CorruptRecord:
                    raise
                except ValueError as error:
                    path = files.path(self.directory) / episode.table
                    raise CorruptEpisode(path, episode.number, str(error)) from error
                worker_pool.tick()

        rlds_writer.write_shard(self._shard(part), payloads())

    def finish(self) -> None:
        """Declares the output whole."""
        splits: dict[str, list[int]] = {}
        for part in self.parts:
            splits.setdefault(part.split, []).append(part.stop - part.start)
        rlds_writer.finish_splits(
            self.output,
            self.form.features,
            name=self.card.name,
            version='1.0.0',
            description=f'Converted from the LeRobot data set {os.path.basename(self.directory)}.',
            splits=splits,
        )

    def _shard(self, part: Part) -> epath.Path:
        shards = sum(other.split == part.split for other in self.parts)
        name = rlds_writer.shard_name(self.card.name, part.split, part.number, shards)
        return self.output / name


FORMATS: dict[str, type[ToLeRobot] | type[ToRlds]] = {'lerobot': ToLeRobot, 'rlds': ToRlds}


def convert(
    directory: epath.PathLike,
    card: str | robot_card.RobotCard,
    format: str,
    output: epath.PathLike,
    processes: int | None = None,
) -> ToLeRobot | ToRlds:
    """Converts a data set, or goes on where an interrupted conversion stopped.

    Args:
        directory: the data set, of this machine or remote.
        card: what its features mean: a card, its name, or a JSON file that holds one.
        format: a key of FORMATS, that the data set isn't in.
        output: directory of the new data set.
        processes: how many at once; one a core by default.

    Raises:
        DataSetError: it is in this format already, the card doesn't fit, or `output` holds
            something else.
        CorruptRecord: an episode that can't be read.
    """
    card, output = cards.find(card) if isinstance(card, str) else card, paths.of(output)
    if lerobot_directory.is_lerobot(directory) == (format == 'lerobot'):
        if format == 'rlds':
            tfds_directory.splits(tfds_directory.version_folder(directory))  # or there is none
        raise DataSetError(f'{directory} is a data set of the format {format} already')
    if format == 'lerobot':
        directory = tfds_directory.version_folder(directory)
    conversion = FORMATS[format](directory, card, output)
    if not conversion.parts:
        raise DataSetError(f'{directory} has no episodes')
    form = conversion.form
    for line in form.lost:
        logging.warning('not in the new data set: %s', line)
    about = {'dataset': str(directory), 'format': format}
    contents = {'card': dataclasses.asdict(card), 'source': conversion.source}
    for name, content in contents.items():
        text = json.dumps(content, sort_keys=True)
        about[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    _prepare(output, about)
    if conversion.is_complete:
        logging.info('%s is complete already; nothing to do', output)
        return conversion
    left = [part for part in conversion.parts if not conversion.is_part(part)]
    jobs = [(conversion, part, part.start, part.stop) for part in left]
    worker_pool.run(_write, jobs, processes or os.cpu_count() or 1, 'converted')
    paths.write(output / CARD_JSON, json.dumps(dataclasses.asdict(form.card), indent=2).encode())
    conversion.finish()
    return conversion


def _write(conversion: ToLeRobot | ToRlds, part: Part, start: int, stop: int) -> None:
    del start, stop  # for the line of progress
    conversion.write(part)


def _prepare(output: epath.Path, about: dict[str, Any]) -> None:
    """Makes the output ready for this conversion."""
    before = worker_pool.claim(output, CONVERSION_JSON, about, 'conversion', DataSetError)
    if before != about:
        changed = [name for name in about if name not in before or before[name] != about[name]]
        raise DataSetError(
            f'{output} holds another conversion, {before}; of this one there are others: '
            f'{", ".join(changed)}. Choose another --output'
        )
    worker_pool.clear(output)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('dataset', None, 'The data set, RLDS or LeRobot.')
    flags.DEFINE_string('card', None, "The robot's card: a name, or a JSON file.")
    flags.DEFINE_enum('format', None, list(FORMATS), 'The format of the new data set.')
    flags.DEFINE_string('output', None, 'Directory of the new data set.')
    flags.DEFINE_integer('processes', None, 'Processes; one a core by default.', lower_bound=1)
    flags.mark_flags_as_required(['dataset', 'card', 'format', 'output'])


def main(argv: Sequence[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unexpected arguments: {argv[1:]}')
    started = time.monotonic()
    with worker_pool.stoppable():
        done = convert(FLAGS.dataset, FLAGS.card, FLAGS.format, FLAGS.output, FLAGS.processes)
    episodes = sum(part.stop - part.start for part in done.parts)
    print(
        f'{FLAGS.output}: {episodes} episodes in {time.monotonic() - started:.0f} s; look with\n'
        f'  python -m rt2_jax.data.inspect --dataset={FLAGS.output} --card={FLAGS.output}/{CARD_JSON} '
        '--output=runs/inspected'
    )


if __name__ == '__main__':
    define_flags()
    command.run('convert_episodes', main)
