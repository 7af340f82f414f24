"""Joins the indexes of shards into one, an array and a shard at a time.

What is in memory at once is one array of one shard, the distinct texts, and a few numbers an
episode: ten million steps are joined in the memory of one shard.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
import json
from typing import Any

from etils import epath
import google_crc32c
import numpy as np

from rt2_jax.data.robot import rlds_shard


def join(
    results: Sequence[epath.PathLike], location: epath.Path, text_arrays: Sequence[str]
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Writes the arrays of an index into the folder `location`.

    Args:
      results: .npz files of rlds_shard, in the order of the shards.
      location: an existing folder.
      text_arrays: arrays whose values are rows of the shard's own texts.

    Returns:
      The `about` of each result, and name -> {'bytes', 'crc32c'} of each .npy file.
    """
    abouts = [_about(result) for result in results]
    episodes, steps = (sum(about[key] for about in abouts) for key in ('episodes', 'steps'))
    texts, rows_of = _joined_texts(results)
    joined = rlds_shard.packed_texts(texts)
    counts = np.concatenate(list(_parts(results, 'episode_steps')))
    joined['episode_first'] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    joined['episode_file'] = np.repeat(
        np.arange(len(results), dtype=np.int32), [about['episodes'] for about in abouts]
    )
    arrays = {
        name: _write(location / f'{name}.npy', [array], len(array))
        for name, array in joined.items()
    }
    with np.load(results[0]) as first:
        names = [name for name in first.files if name not in (*joined, 'about', 'episode_steps')]
    for name in names:
        parts = _parts(results, name)
        if name in text_arrays:
            parts = (rows[part] for rows, part in zip(rows_of, parts, strict=True))
        rows = episodes if name.startswith('episode_') else steps
        arrays[name] = _write(location / f'{name}.npy', parts, rows)
    return abouts, arrays


def _about(result: epath.PathLike) -> dict[str, Any]:
    with np.load(result) as shard:
        return json.loads(shard['about'].tobytes())


def _parts(results: Iterable[epath.PathLike], name: str) -> Iterator[np.ndarray]:
    for result in results:
        with np.load(result) as shard:
            yield shard[name]


def _joined_texts(results: Sequence[epath.PathLike]) -> tuple[list[str], list[np.ndarray]]:
    """The distinct texts of all shards, and for each shard the new rows of its own texts."""
    rows: dict[bytes, int] = {}
    rows_of = []
    for text, ends in zip(_parts(results, 'text'), _parts(results, 'text_end'), strict=True):
        run, starts = text.tobytes(), np.concatenate([[0], ends[:-1]])
        own = [run[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
        rows_of.append(np.array([rows.setdefault(t, len(rows)) for t in own], np.int32))
    return [text.decode() for text in rows], rows_of


def _write(path: epath.Path, parts: Iterable[np.ndarray], rows: int) -> dict[str, int]:
    """A .npy file from its parts. Not through a memory map: a full disk would kill the process."""
    checksum, size, begun = 0, 0, False
    with open(path, 'wb') as file:
        for part in parts:
            # An empty shard doesn't know how wide its arrays would be.
            if not begun and (len(part) or not rows):
                begun = True
                header = np.lib.format.header_data_from_array_1_0(part)
                header['shape'] = (rows, *part.shape[1:])
                header['fortran_order'] = False
                np.lib.format.write_array_header_1_0(file, header)
            data = part.tobytes()
            file.write(data)
            checksum, size = google_crc32c.extend(checksum, data), size + len(data)
    return {'bytes': size, 'crc32c': checksum}
