"""Opens web sets by the settings of a config: the format, then its index, then the source.

The first use makes the index; later ones map it.

    source = web_sources.open_source('tfds', 'data/coco_captions/2014/1.1.0', card='coco_captions',
                                     tasks={'caption': 1.0})
    source[12345]
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from etils import epath

from rt2_jax.data.index import opened_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.readers.jsonl import Jsonl
from rt2_jax.data.readers.tfds_web import Tfds
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.readers.webdataset import WebDataset
from rt2_jax.data.web.web_cards import WebCard, find
from rt2_jax.data.web.web_set import WebSet
from rt2_jax.nearest import check

KINDS = ('tfds', 'webdataset', 'jsonl')
FORMAT_SETTINGS = ('directory', 'card', 'fields', 'split', 'files', 'pictures')
SET_SETTINGS = ('tasks', 'wording', 'languages', 'temperature', 'keep_top', 'min_score')
SET_SETTINGS += ('holdout', 'part', 'most_boxes', 'passes', 'seed')


def open_format(
    kind: str,
    directory: epath.PathLike,
    *,
    card: str | WebCard = '',
    fields: Mapping[str, str] | None = None,
    split: str = 'train',
    files: str = '',
    pictures: str = '',
) -> WebFormat:
    """A web set, before it is indexed.

    Args:
      kind: of KINDS.
      directory: where it is: a folder of this machine, or gs://, s3://, http(s)://.
      card: a card or its name (see cards); by default that of its kind, for TFDS an empty one.
      fields: paths that take the place of the card's, by field.
      split: TFDS's.
      files: pattern of the shards or JSONL files, within the directory (see file_patterns).
      pictures: of JSONL, the folder that pictures' names are relative to, or its address.

    Raises:
      ValueError: an unknown kind, card or field, or a setting that the kind doesn't have.
    """
    check('kind of web set', kind, KINDS)
    directory = str(directory)
    if kind == 'tfds':
        if files or pictures:
            raise ValueError('a TFDS set has a split, no `files` and no `pictures`')
        if not card and not fields:
            raise ValueError(f'{directory}: a TFDS set needs a card, or fields of its schema')
        return Tfds(directory, find(card or WebCard('fields'), fields), split)
    if split != 'train':
        raise ValueError(f'a {kind} set has no split; give the pattern of its `files`')
    given = {'pattern': files} if files else {}
    if kind == 'jsonl':
        return Jsonl(directory, find(card or kind, fields), pictures=pictures, **given)
    if pictures:
        raise ValueError('a webdataset has its pictures in its shards: it takes no `pictures`')
    return WebDataset(directory, find(card or kind, fields), **given)


def open_table(
    dataset: WebFormat,
    *,
    location: epath.PathLike | None = None,
    indexes: epath.PathLike | None = None,
    on_corrupt: str = 'raise',
) -> WebTable:
    """A web set's index, made first if there is none.

    Args:
      dataset: the set.
      location: the index's folder, of this machine or of a bucket; for the default see
        `index_places.place`.
      indexes: a folder that all processes of a job reach and that all of them give, to make and check
        the index together; None for a process that is alone.
      on_corrupt: 'raise' or 'skip', for unreadable records.

    Raises:
      tfrecord.CorruptRecord: an unreadable record, or an index that leaves some out, with
        on_corrupt='raise'.
    """
    return opened_index.open_index(
        WebTable, dataset, location=location, indexes=indexes, on_corrupt=on_corrupt
    )


def open_source(kind: str, directory: epath.PathLike = '', **settings: Any) -> WebSet:
    """A web set as a source, indexing it first if it has no index.

    Args:
      kind: of KINDS.
      directory: where it is.
      **settings: `location`, `indexes` and `on_corrupt` as for `open_table`, `name`, and those of
        `open_format` and of WebSet.

    Raises:
      ValueError: an unknown setting, with the nearest valid name, or one that is lacking.
    """
    whose = f'web set {settings.get("name", directory)!r}:'
    valid = (*FORMAT_SETTINGS, *SET_SETTINGS, 'location', 'indexes', 'name', 'on_corrupt')
    for key in settings:
        check(f'setting of the {whose}', key, valid)
    needed = {'directory': directory, 'tasks': settings.get('tasks')}
    if lacking := [key for key, value in needed.items() if not value]:
        raise ValueError(f'{whose} it lacks {", ".join(lacking)}')
    on_corrupt = settings.pop('on_corrupt', 'raise')
    where = {key: settings.pop(key, None) for key in ('location', 'indexes')}
    given = {key: settings.pop(key) for key in FORMAT_SETTINGS if key in settings}
    dataset = open_format(kind, directory, **given)
    table = open_table(dataset, on_corrupt=on_corrupt, **where)
    return WebSet(table, on_corrupt=on_corrupt, **settings)
