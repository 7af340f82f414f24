"""Where a data set's bytes come from: files of this machine or, behind one interface, of remote stores.

with files.open_file(files.path('gs://bucket/data/part-0')) as file:
    file.read(offset=100, length=50)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
import concurrent.futures
import os
import resource
import threading
from typing import Any, TypeAlias

from etils import epath

from rt2_jax.data import remote

# Files kept open at once: some of what a process may open, which often is 1,024. A set of a thousand
# shards, of which most must be opened for each picture, takes 1.5 times as long to read.
OPEN_FILES = max(64, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 4)

# Requests at once where many files are asked for.
THREADS = 32

Path: TypeAlias = epath.Path | remote.RemotePath


class LocalFile:
    """A file of this machine, with the interface of remote.RemoteFile."""

    def __init__(self, path: epath.PathLike):
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *error) -> None:
        self.close()

    @property
    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length`, or up to the end of the file."""
        return os.pread(self._descriptor, length, offset)

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """What `read` gives for each (offset, length)."""
        return [os.pread(self._descriptor, length, offset) for offset, length in spans]

    def reader(self, *, ahead: bool = True):
        """The file from its start, in order; the system reads ahead."""
        del ahead
        return open(self.path, 'rb')

    def close(self) -> None:
        os.close(self._descriptor)


class Pool:
    """Files of which many stay open, for reading from any thread.

    Args:
      paths: the files, which `read` takes by number.
      known: their stamps, as far as known: a remote file is then read as of that version only.
    """

    def __init__(self, paths: Sequence[Path], known: Sequence[dict[str, Any]] = ()):
        self._paths, self._known = list(paths), list(known)
        self._opened: dict[int, LocalFile | remote.RemoteFile] = {}
        self._lock = threading.Lock()

    def read(self, number: int, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes at each (offset, length) of a file; fewer where it ends before."""
        opened = self._opened.get(number)
        if opened is None:
            with self._lock:
                opened = self._opened.get(number)
                if opened is None and len(self._opened) < OPEN_FILES:
                    opened = self._opened[number] = self._open(number)
        if opened is not None:
            return opened.read_many(spans)
        with self._open(number) as once:
            return once.read_many(spans)

    def _open(self, number: int) -> LocalFile | remote.RemoteFile:
        return open_file(self._paths[number], self._known[number] if self._known else None)

    def __getstate__(self) -> dict[str, Any]:
        # Descriptors and locks belong to one process.
        return {**self.__dict__, '_opened': {}, '_lock': None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock())


def path(given: epath.PathLike | remote.RemotePath) -> Path:
    """A path of this machine or of a remote store, by how it starts."""
    return (
        remote.RemotePath(os.fspath(given))
        if remote.is_remote(given)
        else epath.Path(given).expanduser()
    )


def open_file(
    given: epath.PathLike | remote.RemotePath, known: dict[str, Any] | None = None
) -> LocalFile | remote.RemoteFile:
    """Opens a file for reading, a remote one in the version that its stamp `known` names."""
    if remote.is_remote(given):
        return remote.RemoteFile(path(given), known)
    return LocalFile(os.path.expanduser(given))


def read(given: str) -> bytes:
    """A file whole; a remote one by one request."""
    if remote.is_remote(given):
        return path(given).read_bytes()
    with open(os.path.expanduser(given), 'rb', buffering=0) as file:
        return file.read()


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, of this machine or remote."""
    if remote.is_remote(folder):
        return os.fspath(path(folder) / name)
    return os.path.join(folder, name)


def stamps(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """What changes when a file does: 'size', and 'mtime_ns' or, for a remote file, 'version'."""
    return _of_each(_stamp, paths)


def missing(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that aren't there."""
    paths = list(paths)
    there = _of_each(lambda one: one.exists(), paths)
    return [one for one, exists in zip(paths, there, strict=True) if not exists]


def default_cache() -> epath.Path:
    """The user's folder for what can be made again."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return epath.Path(home) / 'rt2_jax'


def _stamp(one: Path) -> dict[str, Any]:
    if remote.is_remote(one):
        return remote.stamp(path(one))
    status = os.stat(one)
    return {'size': status.st_size, 'mtime_ns': status.st_mtime_ns}


def _of_each(function, paths: Iterable[Path]) -> list[Any]:
    paths = list(paths)
    if not any(map(remote.is_remote, paths)):
        return [function(one) for one in paths]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, paths))
