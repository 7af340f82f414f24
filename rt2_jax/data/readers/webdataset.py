"""WebDataset shards: tar files whose members, one after another, share a sample's key.

    000001.jpg 000001.txt 000001.json 000002.jpg ...

A key is a member's name up to the first dot of its last part, the rest its extension
(github.com/webdataset/webdataset, webdataset/tariterators.py). Pictures are read where they lie in
the archive, so that it can't be compressed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
import dataclasses
import json
import os
import re
import tarfile
from typing import Any

from rt2_jax.data import files, remote_files
from rt2_jax.data.data_errors import lfs_remedy
from rt2_jax.data.index.indexable import Unit
from rt2_jax.data.readers import file_patterns, tfrecord, web_records
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.readers.web_records import Record

# WebDataset's own members, and what macOS puts beside files.
_NO_SAMPLE = re.compile(r'(^|/)(__[^/]*__($|/)|__MACOSX/|\._)')

# First bytes of compressed files -> by what, and what makes them plain.
_COMPRESSED = {
    b'\x1f\x8b': ('gzip', 'gunzip FILE.tar.gz'),
    b'BZh': ('bzip2', 'bunzip2 FILE.tar.bz2'),
    b'\xfd7zXZ': ('xz', 'unxz FILE.tar.xz'),
    b'\x28\xb5\x2f\xfd': ('zstd', 'unzstd FILE.tar.zst'),
}

# A member with its content, b'' where that isn't wanted.
Member = tuple[tarfile.TarInfo, bytes]


@dataclasses.dataclass(frozen=True)
class WebDataset(WebFormat):
    """Shards of a directory.

    Attributes:
        directory: the set, of this machine or remote.
        card: paths begin with an extension.
        pattern: the shards within the directory (see file_patterns).
    """

    pattern: str = '*.tar'

    kind = 'webdataset'

    @property
    def fingerprint(self) -> str:
        """Changes with the card and the pattern."""
        return f'{self.kind} {self.card.fingerprint} {self.pattern}'

    def files(self) -> list[str]:
        """The shards."""
        return file_patterns.matching(self.directory, self.pattern)

    def records(
        self, path: str, unit: Unit, digest: Any
    ) -> Iterator[Record | tfrecord.CorruptRecord]:
        """The shard's samples in order, with what is damaged in its place."""
        for sample in _samples(path):
            self._update(digest, sample)
            if isinstance(sample, tfrecord.CorruptRecord):
                yield sample
                continue
            try:
                yield from self._records(sample)
            except ValueError as error:
                header = sample[0][0]
                reason = f'sample {_split(header.name)[0]!r}: {error}'
                yield tfrecord.CorruptRecord(path, header.offset, reason)

    def framing(self, path: str, unit: Unit, digest: Any) -> None:
        """Of all headers and of the texts; pictures are checked when they are read."""
        # Of a remote shard all is read: a request for each text takes longer than a picture.
        for sample in _samples(path, () if remote_files.is_remote(path) else self._pictures):
            self._update(digest, sample)

    def keys(self) -> list[str]:
        """Extensions of the first sample, and the paths of its JSON."""
        sample = next(_samples(os.fspath(files.path(self.directory) / self.files()[0])))
        if isinstance(sample, tfrecord.CorruptRecord):
            return []
        members = {_split(header.name)[1]: content for header, content in sample}
        trees = {e: _parsed(content, e) for e, content in members.items() if e.endswith('json')}
        return [*members, *web_records.paths(trees)]

    @property
    def _pictures(self) -> list[str]:
        return self.card.image.split('|')

    def _update(self, digest: Any, sample: list[Member] | tfrecord.CorruptRecord) -> None:
        if isinstance(sample, tfrecord.CorruptRecord):
            digest.update(str(sample.offset).encode())
            return
        for header, content in sample:
            digest.update(f'{header.name} {header.offset_data} {header.size}'.encode())
            if _split(header.name)[1] not in self._pictures:
                digest.update(content)

    def _records(self, sample: list[Member]) -> list[Record]:
        members: dict[str, Member] = {}
        for header, content in sample:
            extension = _split(header.name)[1]
            if extension in members:
                raise ValueError(f'two members end in .{extension}')
            members[extension] = header, content
        endings = [ending for ending in self._pictures if ending in members]
        if len(endings) != 1:
            raise ValueError(
                f'{len(endings)} members are a picture ({self.card.image}), one is expected; '
                f'there are {", ".join(members)}'
            )
        parsed: dict[str, Any] = {}
        values = {}
        for field, path in self.card.paths.items():
            extension, _, keys = path.partition('/')
            if extension in members:
                if extension not in parsed:
                    parsed[extension] = _parsed(members[extension][1], extension)
                tree = parsed[extension]
                values[field] = web_records.look_up(tree, keys) if keys else [tree]
        header, picture = members[endings[0]]
        return web_records.make(values, picture, header.offset_data, self.card)


def _samples(
    path: str, left_out: Collection[str] = ()
) -> Iterator[list[Member] | tfrecord.CorruptRecord]:
    """The members of each sample, in order; what ends the archive early comes last.

    Args:
        path: the shard.
        left_out: extensions of members whose content isn't read.
    """
    sample: list[Member] = []
    with files.open_file(path) as opened, opened.reader() as file:
        try:
            for header in _headers(file):
                key, extension = _split(header.name)
                if sample and key != _split(sample[0][0].name)[0]:
                    yield sample
                    sample = []
                # As it comes, in order: going back costs a remote reader what it has read ahead.
                content = b'' if extension in left_out else _content(file, header)
                sample.append((header, content))
            end = file.tell() - tarfile.BLOCKSIZE
        except tarfile.ReadError as error:
            offset = sample[0][0].offset if sample else 0
            file.seek(0)
            reason = _why_not(file.read(12)) or f'{error}: truncated, or no plain tar file'
            yield tfrecord.CorruptRecord(path, offset, reason)
            return
        if sample:
            yield sample
        # To the library any block that isn't a header ends the archive; only one of zeros does.
        file.seek(end)
        block = file.read(tarfile.BLOCKSIZE)
        if block.strip(b'\0') or len(block) < tarfile.BLOCKSIZE:
            reason = f'truncated or damaged: {opened.size - end} bytes from here on, and no end of '
            yield tfrecord.CorruptRecord(path, end, f'{reason}the archive')


def _headers(file: Any) -> Iterator[tarfile.TarInfo]:
    """Members that are files."""
    with tarfile.open(fileobj=file, mode='r:') as archive:
        while (header := archive.next()) is not None:
            archive.members = []  # type: ignore[attr-defined]  # the library would keep them all
            if header.isfile() and not _NO_SAMPLE.search(header.name):
                yield header


def _why_not(start: bytes) -> str:
    """Why a file that begins so is no plain tar file; '' if that isn't known."""
    for magic, (name, remedy) in _COMPRESSED.items():
        if start.startswith(magic):
            return (
                f'compressed by {name}; pictures are read where they lie in the archive, so that it '
                f'must be plain: `{remedy}`'
            )
    return lfs_remedy(start)


def _content(file: Any, header: tarfile.TarInfo) -> bytes:
    file.seek(header.offset_data)
    data = file.read(header.size)
    if len(data) != header.size:
        raise tarfile.ReadError(f'{header.name}: {len(data)} of {header.size} bytes are there')
    return data


def _split(name: str) -> tuple[str, str]:
    """Key and extension of a member's name."""
    folder, _, last = name.rpartition('/')
    stem, _, extension = last.partition('.')
    return (f'{folder}/{stem}' if folder else stem), extension.lower()


def _parsed(data: bytes, extension: str) -> Any:
    if extension.rpartition('.')[2] != 'json':
        return data
    try:
        return json.loads(data)
    except UnicodeDecodeError as error:
        raise ValueError(f'{extension}: not UTF-8: {error}') from error
    except json.JSONDecodeError as error:
        raise ValueError(f'{extension}: not JSON: {error}') from error
