"""Joins the indexes of shards into one, an array and a shard at a time.

What is in memory at once is one array of one shard, the distinct texts, and a few numbers an
episode: ten million steps are joined in the memory of one shard.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data.index import index_arrays, rlds_shard


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
    abouts = [index_arrays.about_part(result) for result in results]
    episodes, steps = (sum(about[key] for about in abouts) for key in ('episodes', 'steps'))
    texts, rows_of = _joined_texts(results)
    joined = rlds_shard.packed_texts(texts)
    counts = np.concatenate(list(index_arrays.of_parts(results, 'episode_steps')))
    joined['episode_first'] = np.concatenate([[0], np.cumsum(counts, dtype=np.int64)])
    joined['episode_file'] = np.repeat(
        np.arange(len(results), dtype=np.int32), [about['episodes'] for about in abouts]
    )
    written = {
        name: index_arrays.write(location / f'{name}.npy', [array], len(array))
        for name, array in joined.items()
    }
    for name in index_arrays.names_in(results[0]):
        if name in (*joined, 'episode_steps'):
            continue
        parts = index_arrays.of_parts(results, name)
        if name in text_arrays:
            parts = (rows[part] for rows, part in zip(rows_of, parts, strict=True))
        rows = episodes if name.startswith('episode_') else steps
        written[name] = index_arrays.write(location / f'{name}.npy', parts, rows)
    return abouts, written


def _joined_texts(results: Sequence[epath.PathLike]) -> tuple[list[str], list[np.ndarray]]:
    """The distinct texts of all shards, and for each shard the new rows of its own texts."""
    rows: dict[bytes, int] = {}
    rows_of = []
    pairs = zip(
        index_arrays.of_parts(results, 'text'),
        index_arrays.of_parts(results, 'text_end'),
        strict=True,
    )
    for text, ends in pairs:
        run, starts = text.tobytes(), np.concatenate([[0], ends[:-1]])
        own = [run[a:b] for a, b in zip(starts.tolist(), ends.tolist(), strict=False)]
        rows_of.append(np.array([rows.setdefault(t, len(rows)) for t in own], np.int32))
    return [text.decode() for text in rows], rows_of
