"""Objects of remote stores, read by ranges: gs://, s3://, http:// and https://.

obstore (the Rust object_store of Apache Arrow) speaks the protocols, keeps the connections and tries
again, with exponential backoff and jitter, after dropped connections, truncated bodies, stalls, 429
and 5xx. What is read is pinned to one version of the object: bytes of two versions never mix.

Addresses and credentials of the stores come from the environment: GOOGLE_APPLICATION_CREDENTIALS,
GOOGLE_BASE_URL, AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and so on; public buckets need
GOOGLE_SKIP_SIGNATURE=true or AWS_SKIP_SIGNATURE=true.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Sequence
import dataclasses
import io
import threading
import time
from typing import Any, TypeVar
import urllib.parse

from rt2_jax.buckets import CONNECTIONS, Limits, client
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.read_ahead import ReadAhead
from rt2_jax.errors import UserError

SCHEMES = ('gs', 's3', 'http', 'https')

# Reading ahead: so many ranges of so many bytes are under way or waiting to be used.
AHEAD, AHEAD_BYTES = 4, 4 << 20

# Bytes at once from the reader: of a file read whole, and of one of which little is read.
READ_BYTES, FRAMING_BYTES = 1 << 16, 1 << 10

# Ranges at most so many bytes apart are read by one request, which costs less than two.
GAP_BYTES = 1 << 16

# What to check where a store refuses a request.
HINTS = {
    'gs': 'check the credentials; for a public bucket, set GOOGLE_SKIP_SIGNATURE=true',
    's3': 'check the credentials and AWS_REGION; for a public bucket, set AWS_SKIP_SIGNATURE=true',
}

Result = TypeVar('Result')


class RemoteError(UserError, OSError):
    """A remote file that couldn't be read, though it was tried again."""


class ChangedFile(RemoteError):
    """A remote file that is another than when it was opened or indexed."""


LIMITS = Limits(tries=1000, seconds=180, request_seconds=60, stall_seconds=15, first_pause=0.1)

# Requests under way at once in a process, however many threads ask.
_connections = threading.BoundedSemaphore(CONNECTIONS)


@dataclasses.dataclass(frozen=True)
class RemotePath:
    """Address of an object or of a folder of objects, with the part of pathlib that data sets need."""

    url: str

    def __post_init__(self) -> None:
        if self.url.startswith('http') and urllib.parse.urlsplit(self.url).query:
            raise ValueError(f"{self.url}: a data set's address can't have a query (?...)")

    def __truediv__(self, name: str) -> RemotePath:
        quoted = urllib.parse.quote(name) if self.url.startswith('http') else name
        return RemotePath(f'{self.url.rstrip("/")}/{quoted}')

    def __fspath__(self) -> str:
        return self.url

    def __str__(self) -> str:
        return self.url

    @property
    def name(self) -> str:
        """The last part."""
        return _last_part(self.url.rstrip('/'))

    def exists(self) -> bool:
        """Whether there is such an object; folders don't exist by themselves."""
        try:
            stamp(self)
        except FileNotFoundError:
            return False
        return True

    def read_bytes(self) -> bytes:
        """The object whole, by one request; raises as RemoteFile.read."""
        store, key = _place(self.url)
        return _request(self.url, '', lambda: bytes(store.get(key).bytes()))

    def read_text(self) -> str:
        """The object whole, as UTF-8."""
        return self.read_bytes().decode()

    def names(self) -> tuple[list[str], list[str]]:
        """Names of the folders and of the objects in a folder.

        Raises:
            DataSetError: web servers don't list what they hold.
        """
        if self.url.startswith('http'):
            raise DataSetError(
                f"{self.url}: a web server doesn't say which files it has; name them, as "
                '{000..127} in the pattern of the files'
            )
        store, key = _place(self.url.rstrip('/') + '/')
        listing = _request(self.url, '', lambda: store.list_with_delimiter(key))
        folders = [folder.rstrip('/') for folder in listing['common_prefixes']]
        objects = [meta['path'] for meta in listing['objects']]
        return [_last_part(folder) for folder in folders], [_last_part(key) for key in objects]


def _last_part(address: str) -> str:
    return address.rpartition('/')[2]


def is_remote(path: Any) -> bool:
    """Whether a path names an object of a remote store."""
    if isinstance(path, RemotePath):
        return True
    scheme, mark, _ = str(path).partition('://')
    return bool(mark) and scheme in SCHEMES


def stamp(path: RemotePath) -> dict[str, Any]:
    """The object's 'size' in bytes, and its 'version': its ETag, or else when it was changed."""
    store, key = _place(path.url)
    return _stamp(_request(path.url, '', lambda: store.head(key)))


class RemoteFile:
    """One version of a remote object.

    Args:
        path: its address.
        version: the `stamp` of the version to read; by default the present one.
    """

    def __init__(self, path: RemotePath, version: dict[str, Any] | None = None) -> None:
        self.path = path
        self._store, self._key = _place(path.url)
        version = version or stamp(path)
        self.size, self.version = version['size'], version['version']
        # Servers never match weak tags; `_get` compares them, as all others, with what comes back.
        weak = self.version.startswith(('W/', 'at '))
        self._options = {} if weak else {'if_match': self.version}

    def __enter__(self) -> RemoteFile:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Nothing to close."""

    def read(self, offset: int, length: int) -> bytes:
        """Bytes `offset` to `offset + length`, or up to the end of the file.

        Raises:
            RemoteError: not to be had within LIMITS.
            ChangedFile: the object is another version now.
            FileNotFoundError: it isn't there any more.
        """
        end = min(offset + length, self.size)
        if end <= offset:
            return b''
        what = f', bytes {offset} to {end}'
        data = _request(self.path.url, what, lambda: self._get(offset, end))
        if len(data) != end - offset:
            raise RemoteError(f'{self.path}{what}: the server sent {len(data)} bytes')
        return data

    def read_many(self, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        """What `read` gives for each (offset, length), with one request for those close together."""
        groups: list[list[int]] = []
        for offset, length in sorted(spans):
            if groups and offset <= groups[-1][1] + GAP_BYTES:
                groups[-1][1] = max(groups[-1][1], offset + length)
            else:
                groups.append([offset, offset + length])
        contents = [self.read(start, end - start) for start, end in groups]
        starts = [start for start, _ in groups]
        results = []
        for offset, length in spans:
            number = bisect.bisect_right(starts, offset) - 1
            begin = offset - starts[number]
            results.append(contents[number][begin : begin + length])
        return results

    def reader(self, *, ahead: bool = True) -> io.BufferedReader:
        """The file from its start, in order; with `ahead`, the next ranges are on their way."""
        raw = ReadAhead(self, AHEAD if ahead else 0, AHEAD_BYTES)
        return io.BufferedReader(raw, READ_BYTES if ahead else FRAMING_BYTES)

    def _get(self, start: int, end: int) -> bytes:
        result = self._store.get(self._key, options={'range': (start, end), **self._options})
        now = _stamp(result.meta)
        if now != {'size': self.size, 'version': self.version}:
            raise ChangedFile(
                f'{self.path}, bytes {start} to {end}: the file has changed: it had {self.size} '
                f'bytes and version {self.version}, now {now["size"]} and {now["version"]}. '
                'Index the data again once nobody writes them.'
            )
        return bytes(result.bytes())


def _stamp(meta: Any) -> dict[str, Any]:
    version = meta.get('e_tag') or f'at {meta["last_modified"].isoformat()}'
    return {'size': int(meta['size']), 'version': version}


def _request(url: str, what: str, send: Callable[[], Result]) -> Result:
    """The result of a request; errors name the file, the range, the tries and the last cause."""
    from obstore import exceptions  # pylint: disable=g-import-not-at-top

    start = time.monotonic()
    try:
        with _connections:
            return send()
    except FileNotFoundError as error:
        raise FileNotFoundError(f'{url}{what}: there is no such file') from error
    except exceptions.PreconditionError as error:
        raise ChangedFile(
            f"{url}{what}: the file isn't any more what it was when it was opened or indexed. "
            'Index the data again once nobody writes them.'
        ) from error
    except exceptions.NotSupportedError as error:
        raise RemoteError(
            f"{url}{what}: the server doesn't serve byte ranges, which reading single examples "
            'takes; serve the data with one that does, or copy them.'
        ) from error
    except exceptions.BaseError as error:
        hint = HINTS.get(url.partition(':')[0])
        raise RemoteError(
            f'{url}{what}: given up after {time.monotonic() - start:.1f} s (the limit is '
            f'{LIMITS.tries} tries or {LIMITS.seconds:g} s): '
            f'{str(error).partition("Debug source")[0].strip()}' + (f' ({hint})' if hint else '')
        ) from error


def _place(url: str) -> tuple[Any, str]:
    """The store that an address belongs to, and the object's name in it."""
    scheme, _, rest = url.partition('://')
    root, _, key = rest.partition('/')
    # Of names in buckets every character counts.
    key = urllib.parse.unquote(key) if scheme in ('http', 'https') else key
    return client(f'{scheme}://{root}', LIMITS), key
