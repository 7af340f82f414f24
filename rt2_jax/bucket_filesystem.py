"""obstore behind etils: the fsspec file systems that `epath.Path('gs://...')` and 's3://' use.

They differ from obstore's own in three ways: the store is that of `rt2_jax.buckets`, a folder without
objects is empty instead of missing, and errors are PathErrors.
"""

from __future__ import annotations

import asyncio
from typing import Any

from obstore.fsspec import BufferedFile, FsspecStore

from rt2_jax import buckets, paths


class _Buckets(FsspecStore):
    scheme = ''

    def __init__(self, *args: Any, finalize_on_close: bool = True, **kwargs: Any) -> None:
        del finalize_on_close  # of gcsfs; etils passes it on
        super().__init__(*args, **kwargs)

    def _construct_store(self, bucket: str) -> Any:
        return buckets.client(f'{self.scheme}://{bucket}')

    def _split_path(self, path: str) -> tuple[str, str]:
        bucket, _, key = path.removeprefix(f'{self.scheme}://').partition('/')
        return bucket, key

    def _url(self, path: str) -> str:
        return f'{self.scheme}://' + path.removeprefix(f'{self.scheme}://')

    async def _ls(self, path: str, detail: Any = True, **kwargs: Any) -> list[Any]:
        try:
            return await super()._ls(path, detail, **kwargs)
        except FileNotFoundError:
            return []
        except Exception as error:
            raise buckets.explain(self._url(path), 'list', error) from error

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        if not recursive:
            return await super()._rm(path, **kwargs)
        folder = self._url(path)
        below = await asyncio.to_thread(paths.files, folder)
        names = [f'{folder}/{name}' for name in below] or [folder]
        await asyncio.gather(*map(self._rm_file, names))

    def _open(self, path: str, mode: Any = 'rb', *_: Any, **kwargs: Any) -> _File:
        try:
            return _File(self, path, mode)
        except Exception as error:
            raise buckets.explain(self._url(path), 'open', error) from error


class _File(BufferedFile):
    def _explained(self, what: str, action: Any, *args: Any) -> Any:
        try:
            return action(*args)
        except Exception as error:
            raise buckets.explain(self.fs._url(self.path), what, error) from error

    def read(self, length: int = -1) -> bytes:
        return self._explained('read', super().read, length)

    def write(self, data: bytes) -> int:
        return self._explained('write', super().write, data)

    def flush(self, force: bool = False) -> None:
        self._explained('write', super().flush, force)

    def close(self) -> None:
        self._explained('write', super().close)


def _explained(name: str, what: str) -> Any:
    async def method(self: _Buckets, path: str, *args: Any, **kwargs: Any) -> Any:
        try:
            return await getattr(FsspecStore, name)(self, path, *args, **kwargs)
        except Exception as error:
            raise buckets.explain(self._url(path), what, error) from error

    return method


for _name, _what in {
    '_info': 'read',
    '_cat_file': 'read',
    '_pipe_file': 'write',
    '_rm_file': 'delete',
    '_cp_file': 'copy',
}.items():
    setattr(_Buckets, _name, _explained(_name, _what))


class GoogleBuckets(_Buckets):
    """Paths at gs://."""

    protocol = scheme = 'gs'


class AmazonBuckets(_Buckets):
    """Paths at s3://."""

    protocol = scheme = 's3'
