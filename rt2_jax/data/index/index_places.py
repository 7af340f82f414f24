"""The folder of an index, and the local copy of one that lies in a bucket.

An index is mapped into memory, so that each machine copies an index in a bucket once, under a name made
from its content.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import uuid

from absl import logging
from etils import epath

from rt2_jax import paths
from rt2_jax.data import files
from rt2_jax.data.index import index_arrays

ABOUT = 'index.json'


def place(
    location: epath.PathLike | None,
    directory: epath.PathLike,
    name: str,
    indexes: epath.PathLike | None = None,
) -> epath.Path:
    """The folder of an index.

    Args:
        location: the user's folder, of this machine or of a bucket; None for the default.
        directory: the data set.
        name: name of the index among those of the data set.
        indexes: a folder that all processes of a job reach and that all of them give.

    Returns:
        By default a folder inside the data set, if that is local: for several processes only if the
        index is there already in all of them, for one only if the index is there or can be written.
        Else a folder in `indexes`, or in the user's cache if that is None.
    """
    if location:
        return paths.of(location)
    directory = files.path(directory)
    if isinstance(directory, epath.Path):
        inside = directory / 'rt2_index' / name
        present = (inside / ABOUT).exists()
        if are_several(indexes):
            from rt2_jax.parallel import distributed  # pylint: disable=g-import-not-at-top

            if all(distributed.gather(present)):
                return inside
        elif present or _can_write(inside):
            return inside
    is_local = isinstance(directory, epath.Path)
    address = os.path.abspath(directory) if is_local else str(directory).rstrip('/')
    if indexes is not None:
        key = hashlib.sha256(address.encode()).hexdigest()[:8]
        return paths.of(indexes) / f'{name}-{key}'
    cached = files.default_cache() / address.replace('://', '/').lstrip('/') / 'rt2_index' / name
    if is_local and not (cached / ABOUT).exists():
        logging.warning(
            '%s cannot be written, so its index goes to %s; `location` names another folder',
            directory,
            cached,
        )
    return cached


def are_several(indexes: epath.PathLike | None) -> bool:
    """Whether the processes of a job, which all give `indexes`, are several."""
    if indexes is None:
        return False
    import jax  # pylint: disable=g-import-not-at-top  # indexing workers need none

    return jax.process_count() > 1


def exists(location: epath.Path) -> bool:
    """Whether there is a finished index."""
    return (location / ABOUT).exists()


def local_copy(location: epath.Path) -> epath.Path:
    """The folder from which an index is mapped: its own, or the copy of one in a bucket.

    Raises:
        IndexMismatch: a file of the copy has another checksum than index.json says.
        OSError: it cannot be read, or the copy cannot be written.
    """
    if not paths.is_remote(location):
        return location
    text = paths.read(location / ABOUT)
    folder = files.default_cache() / 'indexes' / hashlib.sha256(text).hexdigest()[:32]
    if exists(folder):
        return folder
    with locked(building(folder)):
        if exists(folder):
            return folder
        about = json.loads(text)['arrays']
        with writing(folder) as copy:
            for name in about:
                paths.download(location / f'{name}.npy', copy / f'{name}.npy')
            mapped = index_arrays.mapped(copy, about)
            index_arrays.verify(copy, about, mapped, f'Delete {location} and index again.')
            (copy / ABOUT).write_bytes(text)
        shutil.rmtree(building(folder), ignore_errors=True)
    return folder


def building(location: epath.Path) -> epath.Path:
    """The folder that holds the finished parts of an index until all are there."""
    return location.with_name(f'{location.name}.building')


def scratch(location: epath.Path) -> epath.Path:
    """The folder of this machine in which parts are written."""
    if not paths.is_remote(location):
        return building(location)
    key = hashlib.sha256(str(location).encode()).hexdigest()[:16]
    return files.default_cache() / 'indexing' / key


@contextlib.contextmanager
def locked(folder: epath.Path) -> Iterator[None]:
    """Creates a folder and keeps other processes of this machine out while the block runs.

    The block may delete the folder. A file system without locks keeps nobody out.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
        if not _lock(descriptor, folder):
            break
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(folder)):
                break
        os.close(descriptor)  # the process that had it deleted it
    try:
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, folder: epath.Path) -> bool:
    """Waits for the lock of an open folder; False where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        logging.warning('waiting for another process, which works in %s', folder)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def writing(location: epath.Path) -> Iterator[epath.Path]:
    """Gives a folder to write to, which becomes `location` when the block ends without an error."""
    if not paths.is_remote(location):
        temporary = temporary_beside(location)
        temporary.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            _move_into_place(temporary, location)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        return
    temporary = temporary_beside(scratch(location))
    temporary.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        about = paths.read(temporary / ABOUT)
        (temporary / ABOUT).unlink()
        paths.upload(temporary, location)
        paths.write(location / ABOUT, about)  # last: it says that the others are there
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def temporary_beside(path: epath.Path) -> epath.Path:
    """A name for what becomes `path`; unique among machines, whose process ids may be alike."""
    return path.with_name(f'{path.name}.incomplete-{uuid.uuid4().hex[:12]}')


def _move_into_place(temporary: epath.Path, location: epath.Path) -> None:
    stale = location.with_name(f'{location.name}.stale-{uuid.uuid4().hex[:12]}')
    try:
        os.rename(location, stale)
    except FileNotFoundError:
        pass
    try:
        os.rename(temporary, location)
    except OSError:
        # Another process indexing the same data at the same time came first; its index is as good.
        if not exists(location):
            raise
    if stale.exists():
        shutil.rmtree(stale)


def _can_write(folder: epath.Path) -> bool:
    """Whether a folder can be written, or made if it isn't there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
