"""TFRecord files without TensorFlow: framing and checksums.

A record is `uint64 length | uint32 masked crc32c(length) | payload | uint32 masked crc32c(payload)`,
little-endian (tensorflow/core/lib/io/record_writer.h). The mask keeps a checksum of data that
itself holds checksums from degenerating.
"""

from __future__ import annotations

from collections.abc import Iterator
import dataclasses
import os
import struct
from typing import BinaryIO

import google_crc32c

from rt2_jax.data import files
from rt2_jax.data.data_errors import CorruptRecord, lfs_remedy

HEADER_BYTES = 12
FOOTER_BYTES = 4


def checksum(data: bytes) -> int:
    """CRC-32C of `data`."""
    return google_crc32c.value(data)


def masked(crc: int) -> int:
    """The form in which TFRecord stores a CRC-32C."""
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def write_record(file: BinaryIO, payload: bytes) -> int:
    """Appends one record; returns the number of bytes written."""
    length = struct.pack('<Q', len(payload))
    file.write(length + struct.pack('<I', masked(checksum(length))))
    file.write(payload)
    file.write(struct.pack('<I', masked(checksum(payload))))
    return HEADER_BYTES + len(payload) + FOOTER_BYTES


@dataclasses.dataclass(frozen=True)
class Record:
    """Where a record lies and what it holds.

    Attributes:
        offset: first byte of the record's frame in the file.
        length: payload bytes; the payload starts at `offset + HEADER_BYTES`.
        stored_checksum: the masked CRC-32C of the payload as written in the file.
        payload: the bytes, or None when only the framing was read or the record is corrupt.
        error: what is wrong with the record, if anything.
    """

    offset: int
    length: int
    stored_checksum: int
    payload: bytes | None
    error: CorruptRecord | None = None

    @property
    def payload_offset(self) -> int:
        """First byte of the payload in the file."""
        return self.offset + HEADER_BYTES

    @property
    def end(self) -> int:
        """The byte behind the record."""
        return self.offset + HEADER_BYTES + self.length + FOOTER_BYTES


def scan(path: str | os.PathLike, *, payloads: bool = True) -> Iterator[Record]:
    """Walks the records of a file, corrupt ones included.

    A record whose payload fails its checksum has `error` set, and the walk goes on behind it. A broken
    length or a truncated file ends the walk, since the start of the next record is unknown: the last
    Record says so in `error`.

    Args:
        path: the TFRecord file, of this machine or remote (see files).
        payloads: False reads the framing alone, seeking over the payloads, and checks no payload.
    """
    with files.open_file(path) as opened, opened.reader(ahead=payloads) as file:
        offset, size = 0, opened.size
        while offset < size:
            header = file.read(HEADER_BYTES)
            reason, length = _broken_header(header, size - offset)
            if reason:
                reason += f'; {size - offset} bytes of the file from here on are unreadable'
                error = CorruptRecord(path, offset, reason)
                yield Record(offset, length, 0, None, error)
                return
            payload = file.read(length) if payloads else None
            if not payloads:
                file.seek(length, os.SEEK_CUR)
            (stored,) = struct.unpack('<I', file.read(FOOTER_BYTES))
            record = Record(offset, length, stored, payload)
            if payload is not None and masked(checksum(payload)) != stored:
                reason = f"the {length} payload bytes don't match their checksum"
                error = CorruptRecord(path, offset, reason)
                record = dataclasses.replace(record, payload=None, error=error)
            yield record
            offset = record.end


def _broken_header(header: bytes, left: int) -> tuple[str, int]:
    """What is wrong with a record's header given the bytes left in the file, and its length."""
    if len(header) < HEADER_BYTES:
        return f'truncated: {len(header)} of the {HEADER_BYTES} header bytes are there', 0
    if remedy := lfs_remedy(header):
        return remedy, 0
    length, stored = struct.unpack('<QI', header)
    if masked(checksum(header[:8])) != stored:
        return "the length field doesn't match its checksum", 0
    needed = HEADER_BYTES + length + FOOTER_BYTES
    if needed > left:
        return f"truncated: {left} of the record's {needed} bytes are there", length
    return '', length
