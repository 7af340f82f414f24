"""Who may ask: one key, which the client sends as openpi's does, or as a bearer token."""

from __future__ import annotations

import hmac
import os

from rt2_jax import paths
from rt2_jax.serving.refusals import Unauthorized

VARIABLE = 'RT2_API_KEY'
_SCHEMES = ('api-key', 'bearer')


def read_key(file: str | None) -> str | None:
    """The key: of a file if one is named, else of the environment variable; None if neither.

    It is never an argument of the command, which everybody on the machine can read.

    Raises:
      ValueError: a key that is empty or no plain ASCII, or a file that isn't there.
    """
    key = os.environ.get(VARIABLE)
    if file:
        path = paths.of(file)
        if not path.exists():
            raise ValueError(f'--api_key_file={file}: no such file.')
        key = path.read_text()
    if key is not None and not (
        key.strip().isascii() and key.strip().isprintable() and key.strip()
    ):
        raise ValueError(
            f'The key of {file or VARIABLE} is empty, or has other characters than plain ASCII.'
        )
    return key.strip() if key else None


def check_key(key: str | None, header: str | None) -> None:
    """Unauthorized unless `header` ('Api-Key K' or 'Bearer K') brings the key, where there is one."""
    if key is None:
        return
    scheme, _, given = (header or '').partition(' ')
    # In a time that doesn't tell how much of it was right.
    right = hmac.compare_digest(given.strip().encode('latin-1', 'replace'), key.encode())
    if scheme.lower() not in _SCHEMES or not right:
        raise Unauthorized("This server needs a key: the header 'Authorization: Api-Key KEY'.")
