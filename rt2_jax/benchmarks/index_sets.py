"""Made-up data sets for benchmarks/index.py: one shard with thumbnails, under many names (hard links)."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import tarfile
from typing import Any

import numpy as np

from rt2_jax.benchmarks import kitchen
from rt2_jax.data import images
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.index import index_build
from rt2_jax.data.index.opened_index import open_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.readers import tfds_directory
from rt2_jax.data.readers.rlds_episodes import Rlds
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.robot import rlds
from rt2_jax.data.web import open_web
from rt2_jax.data.web.web_source import WebSource

PICTURES = 256  # files that the lines of a JSONL name by turns
# Of a hundred records; a rare one's records come around several times an epoch.
LANGUAGES = {'en': 80, 'de': 15, 'fr': 5}
WEIGHTS = {'en': 0.5, 'de': 0.25, 'fr': 0.25}
# The paper keeps WebLI's best tenth by image-text similarity.
KEEP_TOP = 0.1
FIELDS = {
    'jsonl': {},
    'webdataset': {'caption': 'txt', 'question': 'json/question', 'answer': 'json/answer'}
    | {'language': 'json/language', 'score': 'json/score'},
}


@dataclasses.dataclass(frozen=True)
class Robots:
    """A robot data set in the kitchen's schema, a hundred episodes of a hundred steps a shard.

    Attributes:
        directory: where it is.
        kind: 'robot'.
    """

    directory: str
    kind: str = 'robot'
    shard = 10_000

    def write(self, steps: int) -> None:
        """Makes it, unless it is there."""
        kitchen.write(
            self.directory,
            episodes=100,
            steps=100,
            spread=False,
            pictures=[_picture(number) for number in range(100)],
            features=kitchen.small_spec(16, 16),
            links=steps // self.shard,
        )

    def files(self) -> list[str]:
        """Its shards."""
        names = tfds_directory.shard_names(self.directory)
        return [os.path.join(self.directory, name) for name in names]

    def build(self, location: str) -> None:
        """Indexes it."""
        index_build.build(Rlds(self.directory, kitchen.CARD), location=location)

    def open(self, location: str) -> Any:
        """Opens the index as a source."""
        return rlds.open_source(self.directory, kitchen.CARD, location=location)

    def size(self, source: Any) -> int:
        """How many steps are indexed."""
        return source.index.steps

    def arrays(self, source: Any) -> list[np.ndarray]:
        """What looking up an example reads, but for the data."""
        return list(source.index.arrays.values())

    def row(self, source: Any, i: int) -> Any:
        """What the index holds of an example, without its picture."""
        return source.table.instruction(i), source.table.action(i)


@dataclasses.dataclass(frozen=True)
class Web:
    """A web set with a caption, a question and a score, used by language and score.

    Attributes:
        directory: where it is.
        kind: 'jsonl' or 'webdataset'.
    """

    directory: str
    kind: str

    @property
    def shard(self) -> int:
        """Records of a file."""
        return {'jsonl': 10_000, 'webdataset': 1_000}[self.kind]

    def write(self, records: int) -> None:
        """Makes it, unless it is there."""
        folder, count = pathlib.Path(self.directory), records // self.shard
        if len(self.files() if folder.exists() else ()) == count:
            return
        folder.mkdir(parents=True, exist_ok=True)
        jsonl = self.kind == 'jsonl'
        names = [folder / f'{n:05d}.{"jsonl" if jsonl else "tar"}' for n in range(count)]
        (_write_jsonl if jsonl else _write_tar)(names[0], self.shard)
        for name in names[1:]:
            if not name.exists():
                os.link(names[0], name)

    def files(self) -> list[str]:
        """Its shards."""
        return sorted(os.fspath(path) for path in pathlib.Path(self.directory).glob('0*.*'))

    def build(self, location: str) -> None:
        """Indexes it."""
        index_build.build(self._format(), location=location)

    def open(self, location: str) -> Any:
        """Opens the index as a source, which is selected by language and score."""
        table = open_index(WebTable, self._format(), location=location)
        tasks = {'caption': 1.0, 'vqa': 1.0}
        settings = WebSet(self.kind, self.directory, tasks, languages=WEIGHTS, keep_top=KEEP_TOP)
        return WebSource(table, settings)

    def size(self, source: Any) -> int:
        """How many records are indexed."""
        return len(source.table)

    def arrays(self, source: Any) -> list[np.ndarray]:
        """What looking up an example reads, but for the data."""
        return [*source.table.arrays.values(), source.selection.rows]

    def row(self, source: Any, i: int) -> Any:
        """What the index holds of an example, without its picture."""
        row = source.row(i)
        return source.table.texts('caption', row), source.table.place(row)

    def _format(self) -> WebFormat:
        return open_web.open_format(self.kind, self.directory, fields=FIELDS[self.kind])


def _record(number: int) -> dict[str, Any]:
    rng = np.random.default_rng(number)
    return {
        'caption': f'thing {number} beside thing {rng.integers(10_000)}, seen from above',
        'question': f'what is thing {number}?',
        'answer': [f'thing {number}'],
        'language': str(rng.choice(list(LANGUAGES), p=np.array([*LANGUAGES.values()]) / 100)),
        'score': round(float(rng.random()), 4),
    }


def _picture(number: int) -> bytes:
    rng = np.random.default_rng(number)
    return images.encode_jpeg(rng.integers(0, 256, (16, 16, 3), np.uint8), quality=30)


def _write_jsonl(path: pathlib.Path, records: int) -> None:
    folder = path.parent / 'pictures'
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        (folder / f'{number}.jpg').write_bytes(_picture(number))
    lines = [
        json.dumps({'image': f'pictures/{number % PICTURES}.jpg', **_record(number)})
        for number in range(records)
    ]
    path.write_text('\n'.join(lines) + '\n')


def _write_tar(path: pathlib.Path, records: int) -> None:
    with tarfile.open(path, 'w') as archive:
        for number in range(records):
            record = _record(number)
            for ending, content in {
                'jpg': _picture(number % PICTURES),
                'txt': record['caption'].encode(),
                'json': json.dumps(record).encode(),
            }.items():
                member = tarfile.TarInfo(f'{number:08d}.{ending}')
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
