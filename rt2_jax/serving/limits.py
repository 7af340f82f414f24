"""What a client may ask of the server, and the error that it gets for more: one class for each kind.

openpi's protocol has one form for every error, a text frame and then close code 1011. A message that
is wrong in itself gets that: its frame may be missing in the robot's history, so going on would act on
another past than the robot had. `Overloaded` and `Expired` only say that now is a bad time: their text
frame leaves the connection open, since a busy server needs nothing less than every robot connecting
anew. Nothing of the refused request is remembered, so the client sends the same message again.
"""

from __future__ import annotations

import dataclasses
import hmac
import os
from typing import Any

import cv2
import numpy as np
import simplejpeg

from rt2_jax import paths
from rt2_jax.data import images

API_KEY_VARIABLE = 'RT2_API_KEY'
# Ends the message of every refusal that leaves the connection open.
SEND_AGAIN = 'Nothing of the request is remembered; send it again.'
_SCHEMES = ('api-key', 'bearer')


class Refusal(Exception):
    """A request that is not answered; the text is for the client.

    Attributes:
        status: of HTTP.
        outcome: in the metrics.
        closes: whether a websocket ends with it.
        headers: of the HTTP response.
    """

    status = 500
    outcome = 'failed'
    closes = True
    headers: dict[str, str] = {}


class Malformed(Refusal):
    """The message is wrong."""

    status, outcome = 400, 'malformed'


class Unauthorized(Refusal):
    """The key is missing or wrong."""

    status, outcome = 401, 'unauthorized'
    headers = {'WWW-Authenticate': 'Api-Key'}


class TooSlow(Refusal):
    """The message took too long to arrive."""

    status, outcome = 408, 'too_slow'
    headers = {'Connection': 'close'}


class TooLarge(Refusal):
    """The message, a picture or a text is too large."""

    status, outcome = 413, 'too_large'
    headers = {'Connection': 'close'}


class Overloaded(Refusal):
    """The queue is full, or too many robots are connected."""

    status, outcome, closes = 503, 'overloaded', False
    headers = {'Retry-After': '1'}


class NotReady(Refusal):
    """The server warms up or shuts down."""

    status, outcome = 503, 'not_ready'
    headers = {'Retry-After': '5'}


class Expired(Refusal):
    """The deadline passed before the request was computed."""

    status, outcome, closes = 504, 'expired', False


class Failed(Refusal):
    """A fault of the server itself."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """How large, how slow and how many.

    Attributes:
        message_bytes: largest message.
        image_side: largest height and width of a picture, pixels.
        frames: most pictures of one observation.
        text_characters: longest instruction or question.
        seconds_to_send: from the first byte of headers or of a message to its last.
        connections: most websockets open at a time.
    """

    message_bytes: int = 16 * 2**20
    image_side: int = 2048
    frames: int = 16
    text_characters: int = 2000
    seconds_to_send: float = 10.0
    connections: int = 1024

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f'{field.name} is {getattr(self, field.name)}; above 0 is needed.')

    def check_text(self, what: str, text: Any) -> str:
        """Returns `text`; Malformed if it is none, empty or no Unicode, TooLarge if it is too long."""
        if isinstance(text, (np.str_, np.ndarray)):
            text = str(text) if isinstance(text, np.str_) or text.dtype.kind == 'U' else text
        if not isinstance(text, str):
            raise Malformed(f'{what} must be a text; got {type(text).__name__}.')
        if not text.strip():
            raise Malformed(f'{what} is empty.')
        if any('\ud800' <= character <= '\udfff' for character in text):
            raise Malformed(f'{what} holds half a character (a lone surrogate).')
        if len(text) > self.text_characters:
            raise TooLarge(
                f'{what} has {len(text)} characters; this server takes {self.text_characters}.'
            )
        return text

    def check_picture(self, what: str, picture: Any) -> np.ndarray:
        """A picture or several, as uint8 [F, H, W, 3]; Malformed or TooLarge if it isn't one.

        Args:
            what: names it in errors.
            picture: pixels, an array or nested lists of whole numbers; JPEG or PNG bytes, whose size
                is read from the header before anything is decoded; or a list of such.
        """
        if isinstance(picture, list) and picture and isinstance(picture[0], list):
            picture = _to_pixels(what, picture)
        if isinstance(picture, bytes):
            self._check_size(what, *encoded_size(what, picture))
        elif isinstance(picture, np.ndarray):
            if picture.ndim in (3, 4):
                self._check_size(what, *picture.shape[-3:-1])
        elif not isinstance(picture, (list, tuple)):
            raise Malformed(
                f'{what} must be uint8 [H, W, 3] or [F, H, W, 3], or JPEG or PNG bytes; got '
                f'{type(picture).__name__}.'
            )
        else:
            parts = [self.check_picture(what, part) for part in picture[: self.frames + 1]]
            picture = [part[0] if len(part) == 1 else part for part in parts]
        try:
            frames = images.observed(picture)
        except (ValueError, cv2.error) as error:
            raise Malformed(f'{what}: {error}') from error
        if len(frames) > self.frames:
            raise TooLarge(f'{what} has more than the {self.frames} frames that this server takes.')
        return frames

    def _check_size(self, what: str, height: int, width: int) -> None:
        if max(height, width) > self.image_side:
            raise TooLarge(
                f'{what} has {height} x {width} pixels; this server takes {self.image_side} a side.'
            )


def _to_pixels(what: str, rows: list[Any]) -> np.ndarray:
    """Nested lists of whole numbers 0..255 as a uint8 array; Malformed for anything else."""
    try:
        pixels = np.asarray(rows)
    except ValueError as error:
        raise Malformed(f'{what} is a list whose rows differ in length or kind: {error}') from error
    if pixels.dtype.kind != 'i' or pixels.min(initial=0) < 0 or pixels.max(initial=0) > 255:
        raise Malformed(
            f'{what} is a list of {pixels.dtype}; whole numbers 0..255, [H][W][3], are needed.'
        )
    return pixels.astype(np.uint8)


def encoded_size(what: str, encoded: bytes) -> tuple[int, int]:
    """Height and width of a JPEG or PNG; Malformed if it is neither."""
    if encoded[:8] == images.PNG_MAGIC and encoded[12:16] == b'IHDR' and len(encoded) >= 24:
        return int.from_bytes(encoded[20:24]), int.from_bytes(encoded[16:20])
    try:
        return simplejpeg.decode_jpeg_header(encoded)[:2]
    except ValueError as error:
        raise Malformed(
            f'{what}: {len(encoded)} bytes that are neither a JPEG nor a PNG ({error}).'
        ) from error


def read_key(file: str | None) -> str | None:
    """The key that clients must send: from a file if one is named, else from the environment.

    It is never an argument of the command, which everybody on the machine can read.

    Returns:
        None where there is neither.

    Raises:
        ValueError: the key is empty or not plain ASCII, or the file isn't there.
    """
    key = os.environ.get(API_KEY_VARIABLE)
    if file:
        path = paths.of(file)
        if not path.exists():
            raise ValueError(f'--api_key_file={file}: no such file.')
        key = path.read_text()
    if key is None:
        return None
    key = key.strip()
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError(
            f'The key of {file or API_KEY_VARIABLE} is empty, or has other characters than plain '
            'ASCII.'
        )
    return key


def check_key(key: str | None, header: str | None) -> None:
    """Unauthorized unless the header 'Authorization' ('Api-Key K' or 'Bearer K') has the key."""
    if key is None:
        return
    scheme, _, sent = (header or '').partition(' ')
    # In a time that doesn't tell how much of it was right.
    right = hmac.compare_digest(sent.strip().encode('latin-1', 'replace'), key.encode())
    if scheme.lower() not in _SCHEMES or not right:
        raise Unauthorized("This server needs a key: the header 'Authorization: Api-Key KEY'.")
