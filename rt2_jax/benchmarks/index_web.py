"""Made-up web sets for benchmarks/index.py: thumbnails with a caption, a question and a score."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import pathlib
import tarfile
from typing import Any

import numpy as np

from rt2_jax.data import images
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.index import index_build
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.web import sources as web_sources
from rt2_jax.data.web.web_source import WebSource

SHARDS = {'jsonl': 10_000, 'webdataset': 1_000}  # records of one
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
class Web:
    """A web set, used by language and score.

    Attributes:
      directory: where it is.
      kind: 'jsonl' or 'webdataset'.
    """

    directory: str
    kind: str

    @property
    def shard(self) -> int:
        return SHARDS[self.kind]

    def write(self, records: int) -> None:
        """Makes it, unless it is there: one file under as many names as are needed."""
        folder, count = pathlib.Path(self.directory), records // self.shard
        if len(self.files() if folder.exists() else ()) == count:
            return
        folder.mkdir(parents=True, exist_ok=True)
        ending = {'jsonl': 'jsonl', 'webdataset': 'tar'}[self.kind]
        names = [folder / f'{number:05d}.{ending}' for number in range(count)]
        {'jsonl': _write_jsonl, 'webdataset': _write_tar}[self.kind](names[0])
        for name in names[1:]:
            if not name.exists():
                os.link(names[0], name)

    def files(self) -> list[str]:
        """Its shards."""
        return sorted(os.fspath(path) for path in pathlib.Path(self.directory).glob('0*.*'))

    def build(self, location: str) -> None:
        """Indexes it."""
        index_build.build(self._format(), location=location)

    def open(self, location: str) -> WebSource:
        """Opens the index as a source, which is selected by language and score."""
        table = web_sources.open_table(self._format(), location=location)
        tasks = {'caption': 1.0, 'vqa': 1.0}
        settings = WebSet(self.kind, self.directory, tasks, languages=WEIGHTS, keep_top=KEEP_TOP)
        return WebSource(table, settings)

    def size(self, source: WebSource) -> int:
        """How many records are indexed."""
        return len(source.table)

    def arrays(self, source: WebSource) -> list[np.ndarray]:
        """What looking up an example reads, but for the data."""
        return [*source.table.arrays.values(), source.selection.rows]

    def row(self, source: WebSource, i: int) -> Any:
        """What the index says of an example, without its picture."""
        row = source.row(i)
        return source.table.texts('caption', row), source.table.place(row)

    def _format(self) -> WebFormat:
        return web_sources.open_format(self.kind, self.directory, fields=FIELDS[self.kind])


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


def _write_jsonl(path: pathlib.Path) -> None:
    folder = path.parent / 'pictures'
    folder.mkdir(exist_ok=True)
    for number in range(PICTURES):
        (folder / f'{number}.jpg').write_bytes(_picture(number))
    lines = [
        json.dumps({'image': f'pictures/{number % PICTURES}.jpg', **_record(number)})
        for number in range(SHARDS['jsonl'])
    ]
    path.write_text('\n'.join(lines) + '\n')


def _write_tar(path: pathlib.Path) -> None:
    with tarfile.open(path, 'w') as archive:
        for number in range(SHARDS['webdataset']):
            said = _record(number)
            for ending, content in {
                'jpg': _picture(number % PICTURES),
                'txt': said['caption'].encode(),
                'json': json.dumps(said).encode(),
            }.items():
                member = tarfile.TarInfo(f'{number:08d}.{ending}')
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
