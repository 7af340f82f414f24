"""Which encoding a text is in: UTF-8, or what Windows writes."""

from __future__ import annotations

import codecs
import json

_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig',
    codecs.BOM_UTF16_LE: 'utf-16',
    codecs.BOM_UTF16_BE: 'utf-16',
}


def decoded(content: bytes) -> str:
    """A text of UTF-8, or of UTF-16 with a byte-order mark; without that mark.

    Raises:
        UnicodeDecodeError: it is neither.
    """
    marked = (name for mark, name in _MARKS.items() if content.startswith(mark))
    return content.decode(next(marked, 'utf-8'))


def of_json(start: bytes) -> str:
    """The encoding of JSON that begins so; 4 bytes tell (RFC 4627, section 3)."""
    return json.detect_encoding(start)
