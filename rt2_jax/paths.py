"""Paths that a user names: folders of this machine, gs://BUCKET/... and s3://BUCKET/...

`of` makes an `epath.Path` of what the user wrote. Objects are read, written and listed by obstore, which
is also the client of the data (rt2_jax/data/remote_files.py), with the same credentials and retries; etils,
and with it Orbax and JAX's compilation cache, reaches it through fsspec (rt2_jax/bucket_filesystem.py).

A bucket has no folders and no appending: an object is written whole. `writing` and `Mirror` serve what
needs real files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
import concurrent.futures
import contextlib
import os
import pathlib
import shutil
import tempfile
import time
from typing import TypeVar
import uuid

from etils import epath
import fsspec

from rt2_jax import buckets
from rt2_jax.buckets import NoSuchPath, PathError
from rt2_jax.errors import UserError

# Else etils takes TensorFlow for gs:// wherever it is installed: another client, other credentials.
os.environ.setdefault('EPATH_USE_TF', 'false')
for _protocol, _class in {'gs': 'Google', 'gcs': 'Google', 's3': 'Amazon'}.items():
    fsspec.register_implementation(
        _protocol,
        f'rt2_jax.bucket_filesystem.{_class}Buckets',
        clobber=True,
        errtxt=f"{_protocol}:// needs obstore: pip install 'rt2_jax[remote]'",
    )

SCHEMES = ('gs', 's3')
Result = TypeVar('Result')
NEW = '.new-'  # prefix of the names of files that are still being written
_PROBE = b'rt2_jax wrote this to see whether it may write, and deletes it.'
_THREADS = 16  # objects of a folder copied at once


def of(text: epath.PathLike) -> epath.Path:
    """The path that a user wrote: ~ is expanded, a local path made absolute.

    Raises:
        PathError: another scheme than gs:// and s3://, or no bucket.
        MissingPackage: the path is remote, and the extra `remote` isn't installed.
    """
    name = os.fspath(text)
    scheme, mark, rest = name.partition(':/')
    if mark and scheme.isalnum() and '/' not in scheme:
        if scheme not in SCHEMES:
            raise PathError(f'{name}: {scheme}: is not supported; use a folder, gs:// or s3://')
        if not rest.startswith('/') or not rest.strip('/'):
            raise PathError(f'{name} names no bucket: write {scheme}://BUCKET/FOLDER')
        buckets.import_obstore(f'{scheme}://')
        return epath.Path(name)
    return epath.Path(os.path.abspath(os.path.expanduser(name)))


def is_remote(path: epath.PathLike) -> bool:
    """Whether a path lies in a bucket."""
    return os.fspath(path).startswith(tuple(f'{scheme}://' for scheme in SCHEMES))


def refuse(path: epath.PathLike, scheme: str, why: str) -> None:
    """Raises PathError if the path is of a scheme that something cannot serve, naming it."""
    if os.fspath(path).startswith(f'{scheme}://'):
        raise PathError(f'{path}: {why}')


def read(path: epath.PathLike) -> bytes:
    """A file whole; an object by one request.

    Raises:
        NoSuchPath: it isn't there.
        PathError: it cannot be read.
    """
    if is_remote(path):
        store, key = buckets.place(path)
        return buckets.ask(path, 'read', lambda: bytes(store.get(key).bytes()))
    return _local(path, 'read', lambda: pathlib.Path(path).read_bytes())


def write(path: epath.PathLike, content: bytes) -> None:
    """Writes a file so that it appears whole or not at all.

    Raises:
        PathError: it cannot be written.
    """
    if is_remote(path):
        store, key = buckets.place(path)
        buckets.ask(path, 'write', lambda: store.put(key, content, chunk_size=buckets.PART_BYTES))
        return
    with writing(path) as local:
        local.write_bytes(content)


@contextlib.contextmanager
def writing(path: epath.PathLike) -> Iterator[pathlib.Path]:
    """Yields a local file to write; it becomes `path` when the block ends without an error.

    Raises:
        PathError: it cannot be written.
    """
    remote = is_remote(path)
    if remote:
        folder = pathlib.Path(tempfile.mkdtemp(prefix='rt2_jax_'))
        local = folder / os.path.basename(path)
    else:
        path = pathlib.Path(path)
        local = path.with_name(f'{NEW}{os.getpid()}-{path.name}')
    try:
        if remote:
            yield local
            upload(local, path)
        else:
            with _explained(path, 'write'):
                yield local
                os.replace(local, path)
    finally:
        if remote:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):  # it never came to be, or nothing can be deleted
                local.unlink()


def delete(path: epath.PathLike) -> None:
    """Deletes a file or an object.

    Raises:
        PathError: it cannot be deleted.
    """
    if is_remote(path):
        store, key = buckets.place(path)
        buckets.ask(path, 'delete', lambda: store.delete(key))
    else:
        _local(path, 'delete', pathlib.Path(path).unlink)


def files(folder: epath.PathLike) -> dict[str, int]:
    """Sizes in bytes of all files below a folder, by their paths from there, sorted.

    A folder that does not exist has none.

    Raises:
        PathError: it cannot be listed.
    """
    if is_remote(folder):
        store, key = buckets.place(folder)
        pages = buckets.ask(folder, 'list', lambda: list(store.list(key)))
        cut = len(key) + 1 if key else 0
        return dict(sorted((o['path'][cut:], o['size']) for page in pages for o in page))
    root = pathlib.Path(folder)
    with _explained(folder, 'list'):
        below = sorted(path for path in root.rglob('*') if path.is_file())
        return {str(path.relative_to(root)): path.stat().st_size for path in below}


def upload(local: epath.PathLike, path: epath.PathLike) -> None:
    """Copies a local file, or a local folder with all that is in it, to `path`.

    Raises:
        PathError: it cannot be written.
    """
    local = pathlib.Path(local)
    if local.is_dir():
        _each(lambda name: upload(local / name, epath.Path(path) / name), files(local))
    elif is_remote(path):
        store, key = buckets.place(path)
        buckets.ask(path, 'write', lambda: store.put(key, local, chunk_size=buckets.PART_BYTES))
    else:
        epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
        with writing(path) as whole:
            shutil.copyfile(local, whole)


def download(path: epath.PathLike, local: epath.PathLike) -> None:
    """Copies an object, or a folder with all that is in it, to a local path.

    Raises:
        NoSuchPath: it isn't there.
        PathError: it cannot be read.
    """
    local, below = pathlib.Path(local), files(path)
    if below:
        _each(lambda name: download(epath.Path(path) / name, local / name), below)
        return
    local.parent.mkdir(parents=True, exist_ok=True)
    store, key = buckets.place(path)

    def copy() -> None:
        with local.open('wb') as file:
            for piece in store.get(key).stream():
                file.write(piece)

    buckets.ask(path, 'read', copy)


@contextlib.contextmanager
def local_copy(path: epath.PathLike) -> Iterator[pathlib.Path]:
    """A file or folder as a local one, for libraries that need real files; itself, if it is local.

    Raises:
        NoSuchPath: it isn't there.
        PathError: it cannot be read.
    """
    if not is_remote(path):
        yield pathlib.Path(path)
        return
    with tempfile.TemporaryDirectory(prefix='rt2_jax_') as folder:
        local = pathlib.Path(folder) / os.path.basename(os.fspath(path).rstrip('/'))
        download(path, local)
        yield local


class Mirror:
    """A local folder whose files go to a folder of a bucket, for what appends to files.

    Where the folder is local, it is used itself and nothing is copied.

    Args:
        folder: local or remote.
        fetch: names of files in it that will be appended to.

    Attributes:
        local: where to write.
    """

    def __init__(self, folder: epath.PathLike, fetch: Sequence[str] = ()) -> None:
        self.folder = epath.Path(folder)
        self._sent: dict[str, tuple[int, int]] = {}
        if not is_remote(folder):
            self.local = pathlib.Path(folder)
            self.local.mkdir(parents=True, exist_ok=True)
            return
        self.local = pathlib.Path(tempfile.mkdtemp(prefix='rt2_jax_'))
        self._uploaded = time.monotonic()
        for name in fetch:
            with contextlib.suppress(NoSuchPath):
                (self.local / name).write_bytes(read(self.folder / name))
        self._sent = self._state()

    def upload(self, after_seconds: float = 0.0) -> None:
        """Uploads each file that changed, whole, if the last time is `after_seconds` ago.

        Raises:
            PathError: one cannot be written.
        """
        if not is_remote(self.folder) or time.monotonic() < self._uploaded + after_seconds:
            return
        state = self._state()
        changed = [name for name, stamp in state.items() if self._sent.get(name) != stamp]
        _each(lambda name: upload(self.local / name, self.folder / name), changed)
        self._sent, self._uploaded = state, time.monotonic()

    def close(self) -> None:
        """Uploads what changed and removes the local folder; raises as `upload`."""
        try:
            self.upload()
        finally:
            self.discard()

    def discard(self) -> None:
        """Removes the local folder of a remote one."""
        if is_remote(self.folder):
            shutil.rmtree(self.local, ignore_errors=True)

    def _state(self) -> dict[str, tuple[int, int]]:
        paths = [path for path in sorted(self.local.rglob('*')) if path.is_file()]
        stats = [(str(path.relative_to(self.local)), path.stat()) for path in paths]
        return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats}


def probe(folder: epath.PathLike) -> None:
    """Writes, reads and deletes a small file in a folder, so that a run fails early if it cannot.

    Raises:
        PathError: says what cannot be done there.
    """
    path = epath.Path(folder) / f'.probe-{uuid.uuid4().hex[:12]}'
    if not is_remote(path):
        with _explained(folder, 'make'):
            path.parent.mkdir(parents=True, exist_ok=True)
        write(path, _PROBE)
        content = read(path)
        delete(path)
    else:
        store, key = buckets.place(path, buckets.PROBE_LIMITS)
        buckets.ask(folder, 'write to', lambda: store.put(key, _PROBE))
        content = buckets.ask(folder, 'read from', lambda: bytes(store.get(key).bytes()))
        buckets.ask(folder, 'delete in', lambda: store.delete(key))
    if content != _PROBE:
        raise PathError(f'{folder}: a file that was written there came back changed')


@contextlib.contextmanager
def _explained(path: epath.PathLike, what: str) -> Iterator[None]:
    """OSErrors of a local path as PathErrors with the path and what was tried."""
    try:
        yield
    except UserError:
        raise
    except FileNotFoundError as error:
        raise NoSuchPath(f'cannot {what} {path}: {error.strerror}') from error
    except OSError as error:
        raise PathError(f'cannot {what} {path}: {error.strerror or error}') from error


def _local(path: epath.PathLike, what: str, action: Callable[[], Result]) -> Result:
    with _explained(path, what):
        return action()


def _each(action: Callable[[str], None], names: Iterable[str]) -> None:
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        list(pool.map(action, names))
