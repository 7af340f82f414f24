"""Files of data sets: of this machine or, behind the same interface, of remote stores.

with files.open_file(files.path('gs://bucket/data/part-0')) as file:
    file.read(offset=100, length=50)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
import concurrent.futures
import os
from typing import Any, BinaryIO, TypeAlias, TypeVar

from etils import epath

from rt2_jax.data import remote_files

# Requests at once for many files.
THREADS = 32

Path: TypeAlias = epath.Path | remote_files.RemotePath
AnyPath: TypeAlias = epath.PathLike | remote_files.RemotePath
Result = TypeVar('Result')


class LocalFile:
    """A file of this machine, with the interface of remote_files.RemoteFile."""

    def __init__(self, path: epath.PathLike) -> None:
        self.path = path
        self._descriptor = os.open(path, os.O_RDONLY)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return os.fstat(self._descriptor).st_size

    def read(self, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length`, or up to the end of the file."""
        return os.pread(self._descriptor, length, offset)

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """What `read` gives for each (offset, length)."""
        return [os.pread(self._descriptor, length, offset) for offset, length in spans]

    def reader(self, *, ahead: bool = True) -> BinaryIO:
        """The file from its start, in order; the system reads ahead."""
        del ahead
        return open(self.path, 'rb')

    def close(self) -> None:
        """Closes the file."""
        os.close(self._descriptor)


def path(address: AnyPath) -> Path:
    """A path of this machine or of a remote store, by how it starts."""
    if remote_files.is_remote(address):
        return remote_files.RemotePath(os.fspath(address))
    return epath.Path(address).expanduser()


def open_file(
    address: AnyPath, stamp: dict[str, Any] | None = None
) -> LocalFile | remote_files.RemoteFile:
    """Opens a file for reading, a remote one in the version that `stamp` names."""
    if remote_files.is_remote(address):
        return remote_files.RemoteFile(remote_files.RemotePath(os.fspath(address)), stamp)
    return LocalFile(os.path.expanduser(address))


def read(address: str) -> bytes:
    """A file whole; a remote one by one request."""
    if remote_files.is_remote(address):
        return remote_files.RemotePath(address).read_bytes()
    with open(os.path.expanduser(address), 'rb', buffering=0) as file:
        return file.read()


def within(folder: str, name: str) -> str:
    """The path of a file in a folder, of this machine or remote."""
    if remote_files.is_remote(folder):
        return os.fspath(path(folder) / name)
    return os.path.join(folder, name)


def stamps(paths: Iterable[Path]) -> list[dict[str, Any]]:
    """What changes when a file does: 'size', and 'mtime_ns' or, for a remote file, 'version'.

    A file that isn't there has the size 0 and is 'missing'.
    """
    return _of_each(_stamp, paths)


def missing(paths: Iterable[Path]) -> list[Path]:
    """Those of `paths` that aren't there."""
    paths = list(paths)
    present = _of_each(lambda path: path.exists(), paths)
    return [path for path, exists in zip(paths, present, strict=True) if not exists]


def default_cache() -> epath.Path:
    """The user's folder for what can be made again."""
    home = os.environ.get('XDG_CACHE_HOME') or os.path.join(os.path.expanduser('~'), '.cache')
    return epath.Path(home) / 'rt2_jax'


def _stamp(path: Path) -> dict[str, Any]:
    try:
        if isinstance(path, remote_files.RemotePath):
            return remote_files.stamp(path)
        status = os.stat(path)
    except FileNotFoundError:
        return {'size': 0, 'missing': True}
    return {'size': status.st_size, 'mtime_ns': status.st_mtime_ns}


def _of_each(function: Callable[[Path], Result], paths: Iterable[Path]) -> list[Result]:
    paths = list(paths)
    if not any(map(remote_files.is_remote, paths)):
        return [function(path) for path in paths]
    with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(function, paths))
