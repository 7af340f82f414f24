"""How large, how slow and how many: what one client may ask of the server."""

from __future__ import annotations

import dataclasses
from typing import Any

import cv2
import numpy as np
import simplejpeg

from rt2_jax.data import images
from rt2_jax.serving.refusals import Malformed, TooLarge


@dataclasses.dataclass(frozen=True)
class Limits:
    """What one client may send, and how slowly.

    Attributes:
      message_bytes: of one message.
      image_side: most pixels of a picture's height, and of its width.
      frames: most pictures of one observation.
      text_characters: of an instruction or a question.
      seconds_to_send: from the first byte of headers or of a message to its last.
      connections: open at a time.
    """

    message_bytes: int = 16 * 2**20
    image_side: int = 2048
    frames: int = 16
    text_characters: int = 2000
    seconds_to_send: float = 10.0
    connections: int = 1024

    def __post_init__(self):
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(f'{field.name} is {getattr(self, field.name)}; above 0 is needed.')

    def check_text(self, what: str, text: Any) -> str:
        """Returns `text`, which must be one, not empty and not too long."""
        if isinstance(text, (np.str_, np.ndarray)):
            text = str(text) if isinstance(text, np.str_) or text.dtype.kind == 'U' else text
        if not isinstance(text, str):
            raise Malformed(f'{what} must be a text; got {type(text).__name__}.')
        if not text.strip():
            raise Malformed(f'{what} is empty.')
        if len(text) > self.text_characters:
            raise TooLarge(
                f'{what} has {len(text)} characters; this server takes {self.text_characters}.'
            )
        return text

    def check_picture(self, what: str, picture: Any) -> np.ndarray:
        """A picture or several, sent as pixels or as JPEG or PNG, as uint8 [F, H, W, 3].

        Pixels are an array, or lists of whole numbers within each other. A compressed picture's size
        is read from its head, before anything is decoded.
        """
        if isinstance(picture, list) and picture and isinstance(picture[0], list):
            picture = _as_pixels(what, picture)
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
            frames = [self.check_picture(what, one) for one in picture[: self.frames + 1]]
            picture = [frame[0] if len(frame) == 1 else frame for frame in frames]
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


def _as_pixels(what: str, rows: list[Any]) -> np.ndarray:
    """Lists of whole numbers 0..255 as an array uint8; Malformed for anything else."""
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
