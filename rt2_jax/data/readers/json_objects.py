"""The objects of a JSON file, as UTF-8: one a line, or the elements of one array.

Lines of UTF-8 can be read from anywhere in the file. Other files are read whole: an array, as
LLaVA's sets are, and UTF-16, whose line ends aren't single bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
import json
import re
from typing import Any

from rt2_jax.data import encoded_text, files
from rt2_jax.data.index.indexable import Unit

_TAIL_BYTES = 1 << 16
_WITHOUT_MARK = {'utf-8-sig': 'utf-8', 'utf-16': 'utf-16-le', 'utf-32': 'utf-32-le'}
_BETWEEN = re.compile(r'[\s,]*')  # elements of an array


def is_whole(path: str) -> bool:
    """Whether a file must be read whole."""
    with files.open_file(path) as file:
        start = file.read(0, _TAIL_BYTES)
    if not encoded_text.of_json(start).startswith('utf-8'):
        return True
    return start.removeprefix(b'\xef\xbb\xbf').lstrip().startswith(b'[')


def read(path: str, unit: Unit) -> Iterator[tuple[int, bytes]]:
    """Each object that begins inside the unit, with its first byte in the file.

    The first unit of a file that must be read whole has all of them.
    """
    if not is_whole(path):
        yield from _of_lines(path, unit)
    elif unit.start == 0:
        yield from _of_text(files.read(path))


def _of_text(content: bytes) -> Iterator[tuple[int, bytes]]:
    """The objects of a whole file; what isn't text or JSON comes as it is, last."""
    encoding = encoded_text.of_json(content)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        yield 0, content
        return
    plain = _WITHOUT_MARK.get(encoding, encoding)
    offset, at = len(content) - len(text.encode(plain)), 0
    for begin, end in _elements(text) if text.lstrip().startswith('[') else _text_lines(text):
        offset += len(text[at:begin].encode(plain))
        yield offset, text[begin:end].encode()
        offset += len(text[begin:end].encode(plain))
        at = end


def _elements(text: str) -> Iterator[tuple[int, int]]:
    """Where each element of an array begins and ends; all that follows a broken one is its part."""
    decoder, end = json.JSONDecoder(), text.index('[') + 1
    while True:
        between = _BETWEEN.match(text, end)
        begin = between.end() if between else end
        if text.startswith(']', begin):
            if text[begin + 1 :].strip():  # not silently: what follows the array is named
                yield begin + 1, len(text)
            return
        try:
            _, end = decoder.raw_decode(text, begin)
        except (ValueError, RecursionError):
            yield begin, len(text)
            return
        yield begin, end


def _text_lines(text: str) -> Iterator[tuple[int, int]]:
    return (match.span() for match in re.finditer(r'[^\n]*\S[^\n]*\n?', text))


def _of_lines(path: str, unit: Unit) -> Iterator[tuple[int, bytes]]:
    with files.open_file(path) as file:
        # The byte before tells whether a line begins here or is another unit's.
        begin = max(unit.start - 1, 0)
        data = file.read(begin, unit.stop - begin)
        at = data.find(b'\n') + 1 or len(data) if unit.start else 0
        if at < len(data) and not data.endswith(b'\n'):
            data += _rest_of_line(file, unit.stop)
    while at < len(data):
        end = data.find(b'\n', at) + 1 or len(data)
        if data[at:end].strip():
            yield begin + at, data[at:end]
        at = end


def _rest_of_line(file: Any, offset: int) -> bytes:
    rest = b''
    while b'\n' not in rest and (more := file.read(offset + len(rest), _TAIL_BYTES)):
        rest += more
    return rest[: rest.find(b'\n') + 1 or len(rest)]
