"""Where the index of a data set lies: in which folder, and how it comes onto this machine.

An index is kept in a folder of this machine or of a bucket, and used from a folder of this machine,
because it is mapped into memory: each machine copies one that lies in a bucket once, under a name made
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
        location: the folder that the user wants, of this machine or of a bucket; None for the default.
        directory: the data set.
        name: of the index among those of the data set.
        indexes: a folder that all processes of a job reach and that all of them give.

    Returns:
        By default the folder inside a data set of this machine. Several processes use it only if it is
        there in all of them, and one alone only if it is there or can be written. Else a folder in
        `indexes`, or without that in the user's cache.
    """
    if location:
        return paths.of(location)
    directory = files.path(directory)
    local = isinstance(directory, epath.Path)
    if local:
        inside = directory / 'rt2_index' / name
        present = (inside / ABOUT).exists()
        if are_several(indexes):
            from rt2_jax.parallel import distributed  # pylint: disable=g-import-not-at-top

            if all(distributed.gather(present)):
                return inside
        elif present or _can_write(inside):
            return inside
    address = os.path.abspath(directory) if local else str(directory).rstrip('/')
    if indexes is not None:
        own = hashlib.sha256(address.encode()).hexdigest()[:8]
        return paths.of(indexes) / f'{name}-{own}'
    cached = files.default_cache() / address.replace('://', '/').lstrip('/') / 'rt2_index' / name
    if local and not (cached / ABOUT).exists():
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
    import jax  # pylint: disable=g-import-not-at-top  # workers that index need none

    return jax.process_count() > 1


def exists(location: epath.Path) -> bool:
    """Whether there is a finished index."""
    return (location / ABOUT).exists()


def on_this_machine(location: epath.Path) -> epath.Path:
    """The folder from which an index is mapped: its own, or the copy of one that lies in a bucket.

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
    with alone(building(folder)):
        if exists(folder):
            return folder
        described = json.loads(text)['arrays']
        with written(folder) as copy:
            for name in described:
                paths.download(location / f'{name}.npy', copy / f'{name}.npy')
            mapped = index_arrays.mapped(copy, described)
            index_arrays.verify(copy, described, mapped, f'Delete {location} and index again.')
            (copy / ABOUT).write_bytes(text)
        shutil.rmtree(building(folder), ignore_errors=True)
    return folder


def building(location: epath.Path) -> epath.Path:
    """The folder in which the finished parts of an index wait for the others."""
    return location.with_name(f'{location.name}.building')


def scratch(location: epath.Path) -> epath.Path:
    """The folder of this machine in which parts are made."""
    if not paths.is_remote(location):
        return building(location)
    key = hashlib.sha256(str(location).encode()).hexdigest()[:16]
    return files.default_cache() / 'indexing' / key


@contextlib.contextmanager
def alone(folder: epath.Path) -> Iterator[None]:
    """Makes a folder and keeps other processes of this machine out while the block runs.

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
        os.close(descriptor)  # whoever had it has deleted it
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
def written(location: epath.Path) -> Iterator[epath.Path]:
    """Gives a folder to write to, which takes its place at `location` once all is written."""
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
