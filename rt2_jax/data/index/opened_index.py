"""An index, opened: compared with its data, and memory-mapped."""

from __future__ import annotations

from typing import Any, TypeVar

from absl import logging
from etils import epath

from rt2_jax import records
from rt2_jax.data import files
from rt2_jax.data.data_errors import CorruptRecord, IndexMismatch
from rt2_jax.data.index import index_arrays, index_build, index_jobs, index_places
from rt2_jax.data.index.indexable import Indexable

Opened = TypeVar('Opened', bound='OpenedIndex')


class OpenedIndex:
    """The index of a data set; EpisodeIndex and WebTable say what its columns mean.

    Args:
        dataset: the set.
        location: the index's folder, see `index_build.place`.
        together: whether all processes of a job open it at once; one of them then checks a remote set.

    Attributes:
        directory: the data set.
        location: the index's folder.
        local: the folder of this machine that it is mapped from.
        about: what index.json says.
        files: the files that were indexed.
        stamps: of each file its size and time or version, when the index was opened.
        fingerprint: changes with the data and with how they are read.
        arrays: the columns by name, memory-mapped.

    Raises:
        FileNotFoundError: no index there.
        IndexMismatch: the index isn't this set's, this card's, or this version's.
    """

    def __init__(
        self, dataset: Indexable, location: epath.PathLike | None = None, *, together: bool = False
    ) -> None:
        self.directory = dataset.directory
        self.location = index_build.place(dataset, location)
        if not index_places.exists(self.location):
            raise FileNotFoundError(
                f'no index at {self.location}; build it with rt2_jax.data.index.index_build.build'
            )
        self.local = index_places.local_copy(self.location)
        self.about: dict[str, Any] = records.read(self.local / index_places.ABOUT, IndexMismatch)
        self.stamps = index_jobs.ask_once(lambda: self._check(dataset), self.directory, together)
        self.fingerprint: str = self.about['fingerprint']
        folder = files.path(self.directory)
        self.files = [folder / file['name'] for file in self.about['files']]
        self._map()

    def _map(self) -> None:
        """Maps the columns into memory."""
        self.arrays = index_arrays.mapped(self.local, self.about['arrays'])

    @property
    def skipped_count(self) -> int:
        """How many records could not be read when the set was indexed."""
        # Older indexes of episodes name all of them.
        return self.about.get('skipped_count', len(self.about['skipped']))

    def verify(self) -> None:
        """Reads all of the index and compares its checksums; as long as reading it takes.

        Raises:
            IndexMismatch: naming the damaged file.
        """
        index_arrays.verify(self.location, self.about['arrays'], self.arrays, self._remedy)

    def __getstate__(self) -> dict[str, Any]:
        # Another process maps the files itself.
        return {**self.__dict__, 'arrays': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._map()

    @property
    def _remedy(self) -> str:
        return f'Delete {self.location} and index again (rt2_jax.data.index.index_build.build).'

    def _mismatch(self, reason: str) -> IndexMismatch:
        return IndexMismatch(f'{reason}. {self._remedy}')

    def _check(self, dataset: Indexable) -> list[dict[str, Any]]:
        """Compares the data with the index; returns the stamps of the files as of now."""
        for name, value in dataset.identity.items():
            if self.about.get(name) != value:
                raise self._mismatch(
                    f'the index at {self.location} was built with {name} {self.about.get(name)!r}, '
                    f'but {value!r} is wanted'
                )
        then, now = self.about['files'], index_build.stamps(dataset)
        if [file['name'] for file in then] != [file['name'] for file in now]:
            raise self._mismatch(
                f'the index at {self.location} covers {len(then)} files, {self.directory} has '
                f'{len(now)}, or others'
            )
        for old, new in zip(then, now, strict=True):
            if new.get('missing', False) and old != new:
                raise self._mismatch(
                    f'{files.path(self.directory) / new["name"]} is missing, which the index at '
                    f'{self.location} was built with'
                )
            if old['size'] != new['size']:
                raise self._mismatch(
                    f'{files.path(self.directory) / new["name"]} has {new["size"]} bytes; the index at '
                    f'{self.location} was built when it had {old["size"]}'
                )
        if then != now:
            # Copying changes times but not content. An index of episodes has no fingerprint but this.
            indexed = self.about.get('framing', self.about['fingerprint'])
            if index_build.framing(dataset, now) != indexed:
                raise self._mismatch(
                    f'{self.directory} has changed since the index at {self.location} was built: '
                    'same sizes, other records'
                )
            logging.info('%s: other times than when indexed, same records', self.directory)
        return now


def open_index(
    kind: type[Opened],
    dataset: Indexable,
    *,
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
) -> Opened:
    """The index of a data set, built first if there is none.

    Args:
        kind: the class of the opened index.
        dataset: the set.
        location: the index's folder, of this machine or of a bucket; for the default see
            `index_places.place`.
        indexes: a folder that all processes of a job reach and that all of them give, to build and
            check the index together; None for a process that is alone.
        on_corrupt: 'raise' or 'skip', for unreadable records.

    Raises:
        CorruptRecord: an unreadable record, or an index that leaves some out, with
            on_corrupt='raise'.
        DataSetError: a set that isn't whole, or lacks what its card names.
    """
    location = index_build.place(dataset, location, indexes)
    together = index_places.are_several(indexes)
    if not index_jobs.processes_of(together).by_leader(lambda: index_places.exists(location)):
        logging.info('indexing %s into %s', dataset.directory, location)
        index_build.build(
            dataset, location=location, on_corrupt=on_corrupt, together=together, again=False
        )
    index = kind(dataset, location, together=together)
    if count := index.skipped_count:
        first = CorruptRecord.from_json(index.about['skipped'][0], files.path(dataset.directory))
        if on_corrupt == 'raise':
            raise type(first)(
                first.path,
                first.offset,
                f'{first.reason}. It is the first of {count} unreadable records that the index at '
                f"{location} leaves out; repair the data and delete the index, or set on_corrupt='skip'.",
            )
        logging.warning(
            '%s: left out %d unreadable records, the first: %s', dataset.directory, count, first
        )
    return index
