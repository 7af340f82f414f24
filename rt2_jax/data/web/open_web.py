"""Opens web sets by the settings of a config: the format, then its index, then the source.

The first use makes the index; later ones map it.

    source = open_web.open_source('tfds', 'data/coco_captions/2014/1.1.0', card='coco_captions',
                                     tasks={'caption': 1.0})
    source[12345]
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath

from rt2_jax.data.data_config import WEB_KINDS, WebSet
from rt2_jax.data.index import opened_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.readers.jsonl import Jsonl
from rt2_jax.data.readers.tfds_web import Tfds
from rt2_jax.data.readers.web_format import WebFormat
from rt2_jax.data.readers.webdataset import WebDataset
from rt2_jax.data.web.web_cards import WebCard, find
from rt2_jax.data.web.web_source import WebSource
from rt2_jax.nearest import check, check_fields


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
        kind: of WEB_KINDS.
        directory: where it is: a folder of this machine, or gs://, s3://, http(s)://.
        card: a card or its name (see cards); by default that of its kind, for TFDS an empty one.
        fields: paths that take the place of the card's, by field.
        split: TFDS's.
        files: pattern of the shards or JSONL files, within the directory (see file_patterns).
        pictures: of JSONL, the folder that pictures' names are relative to, or its address.

    Raises:
        ValueError: an unknown kind, card or field, or a setting that the kind doesn't have.
    """
    check('kind of web set', kind, WEB_KINDS)
    directory = str(directory)
    if kind == 'tfds':
        if files or pictures:
            raise ValueError('a TFDS set has a split, no `files` and no `pictures`')
        if not card and not fields:
            raise ValueError(f'{directory}: a TFDS set needs a card, or fields of its schema')
        return Tfds(directory, find(card or WebCard('fields'), fields), split)
    if split != 'train':
        raise ValueError(f'a {kind} set has no split; give the pattern of its `files`')
    pattern = {'pattern': files} if files else {}
    if kind == 'jsonl':
        return Jsonl(directory, find(card or kind, fields), pictures=pictures, **pattern)
    if pictures:
        raise ValueError('a webdataset has its pictures in its shards: it takes no `pictures`')
    return WebDataset(directory, find(card or kind, fields), **pattern)


def open_set(
    web_set: WebSet, part: str = 'train', indexes: epath.PathLike | None = None
) -> WebSource:
    """A web set as a source, indexing it first if it has no index.

    Args:
        web_set: the set.
        part: 'train' for the records that aren't held out, 'validation' for those that are.
        indexes: as for `opened_index.open_index`.

    Raises:
        Exception: as `open_format`, `open_index` and WebSource.
    """
    dataset = open_format(
        web_set.kind,
        web_set.directory,
        card=web_set.card,
        fields=web_set.fields,
        split=web_set.split,
        files=web_set.files,
        pictures=web_set.pictures,
    )
    table = opened_index.open_index(
        WebTable, dataset, location=web_set.location, indexes=indexes, on_corrupt=web_set.on_corrupt
    )
    return WebSource(table, web_set, part)


def open_source(
    kind: str,
    directory: epath.PathLike,
    *,
    part: str = 'train',
    indexes: epath.PathLike | None = None,
    **fields: Any,
) -> WebSource:
    """A web set as a source: `open_set` of the WebSet with these fields.

    Raises:
        ValueError: a field that WebSet doesn't have, with the nearest valid one, or one that is missing.
    """
    names = [field.name for field in dataclasses.fields(WebSet)]
    fields = check_fields('WebSet', fields, names, ('tasks',))
    return open_set(WebSet(kind=kind, directory=str(directory), **fields), part, indexes)
