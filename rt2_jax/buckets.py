"""The client of buckets, obstore (the Rust object_store of Apache Arrow), with its errors in one line.

Addresses and credentials come from the environment: GOOGLE_APPLICATION_CREDENTIALS, GOOGLE_BASE_URL,
AWS_ACCESS_KEY_ID, AWS_REGION, AWS_ENDPOINT_URL and so on.
"""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import datetime
import functools
import os
import re
from typing import Any, TypeVar

from etils import epath

from rt2_jax import exit_codes
from rt2_jax.errors import MissingPackage, UserError

HINTS = {
    'gs': 'check the credentials (GOOGLE_APPLICATION_CREDENTIALS) and their role in the bucket',
    's3': 'check the credentials (AWS_ACCESS_KEY_ID), AWS_REGION and the policy of the bucket',
}
CONNECTIONS = 64  # kept open to a host
PART_BYTES = 32 << 20  # larger objects are uploaded in parts of this size

Result = TypeVar('Result')


class PathError(UserError, OSError):
    """A path cannot be read or written."""


class Unavailable(PathError):
    """A bucket did not answer any try; the same command may succeed later."""

    exit_code = exit_codes.CRASHED


class NoSuchPath(PathError, FileNotFoundError):
    """There is no such file, object or bucket."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """When to give up a request to a bucket.

    Attributes:
        tries: how often a request is made.
        seconds: no new try after so long.
        request_seconds: the longest that one try may take.
        stall_seconds: the longest that it may go without a byte.
        first_pause: the shortest pause between tries, in seconds.
        longest_pause: the longest pause between tries, in seconds.
    """

    tries: int = 10_000
    seconds: float = 300.0
    request_seconds: float = 120.0
    stall_seconds: float = 30.0
    first_pause: float = 0.5
    longest_pause: float = 15.0


LIMITS = Limits()
PROBE_LIMITS = Limits(seconds=30.0)


def ask(path: epath.PathLike, what: str, request: Callable[[], Result]) -> Result:
    """The result of a request to a bucket; its errors as a PathError of one line."""
    try:
        return request()
    except Exception as error:
        raise explain(path, what, error) from error


def explain(path: epath.PathLike, what: str, error: BaseException) -> BaseException:
    """The error of a request as a PathError of one line; an error of another kind unchanged."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, FileNotFoundError):
        if what.startswith(('write', 'list')):  # objects needn't be there for these
            bucket = '/'.join(os.fspath(path).split('/')[:3])
            return NoSuchPath(f'{path}: there is no bucket {bucket}')
        return NoSuchPath(f'{path}: there is no such object')
    text = ' '.join(str(error).partition('Debug source')[0].split())
    if not (type(error).__module__.startswith('obstore') or 'Error performing' in text):
        return error
    cause = text.rpartition(' - ')[2].replace(
        'Server returned non-2xx status code', 'the server answered'
    )
    retries = re.search(r'after (\d+) retries', text)
    given_up = f' (given up after {retries[1]} retries)' if retries else ''
    denied = '403 Forbidden' in cause or '401 Unauthorized' in cause
    hint = f'; {HINTS[os.fspath(path)[:2]]}' if denied else ''
    kind = Unavailable if given_up and not denied else PathError
    return kind(f'cannot {what} {path}: {cause[:300].rstrip(" :")}{given_up}{hint}')


@functools.cache
def client(root: str, limits: Limits = LIMITS) -> Any:
    """The obstore client of a bucket or web server, such as 'gs://BUCKET'.

    Raises:
        MissingPackage: the extra `remote` isn't installed.
    """

    def seconds(number: float) -> datetime.timedelta:
        return datetime.timedelta(seconds=number)

    return import_obstore(root).store.from_url(
        root,
        client_options={
            # A bucket's own address is https; another is the user's choice.
            'allow_http': True,
            'timeout': seconds(limits.request_seconds),
            'read_timeout': seconds(limits.stall_seconds),
            'pool_max_idle_per_host': str(CONNECTIONS),
        },
        retry_config={
            'max_retries': limits.tries - 1,
            'retry_timeout': seconds(limits.seconds),
            'backoff': {
                'init_backoff': seconds(limits.first_pause),
                'max_backoff': seconds(limits.longest_pause),
                'base': 2,
            },
        },
    )


def import_obstore(need: str) -> Any:
    """The module obstore; raises MissingPackage, which says what needs it."""
    try:
        import obstore.store  # pylint: disable=g-import-not-at-top
    except ImportError as error:
        raise MissingPackage(need, 'obstore', 'remote') from error
    return obstore


def place(path: epath.PathLike, limits: Limits = LIMITS) -> tuple[Any, str]:
    """The client of a remote path's bucket, and the object's name in it."""
    scheme, _, rest = os.fspath(path).partition('://')
    name, _, key = rest.partition('/')
    return client(f'{scheme}://{name}', limits), key.rstrip('/')
