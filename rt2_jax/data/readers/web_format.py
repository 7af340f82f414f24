"""What all formats of web sets have in common: an `index_build.Indexable` of web records."""

from __future__ import annotations

import abc
from collections.abc import Sequence
import dataclasses
import hashlib
from typing import Any, ClassVar

from etils import epath

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.index import web_columns
from rt2_jax.data.index.indexable import Indexable, Part
from rt2_jax.data.web.web_cards import TEXTS, WebCard, find
from rt2_jax.nearest import nearest

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class WebFormat(Indexable):
    """A web set in some format.

    Attributes:
        directory: the set, of this machine or remote.
        card: what its features are called.
        kind: the format's name.
    """

    directory: str
    card: WebCard

    kind: ClassVar[str]
    rows = 'records'
    parallel_bytes = 32 << 20

    @property
    def folder(self) -> str:
        """Where pictures are that have files of their own; else ''."""
        return ''

    @property
    def index_name(self) -> str:
        """One index for each way to read the set."""
        return f'{self.kind}-{hashlib.sha256(self.fingerprint.encode()).hexdigest()[:8]}'

    @property
    def identity(self) -> dict[str, Any]:
        """What an index must have been built with."""
        return {'format': FORMAT, 'dataset': self.fingerprint}

    @abc.abstractmethod
    def keys(self) -> list[str]:
        """Valid paths of the card, for messages about a mistyped one."""

    def columns(self) -> web_columns.WebColumns:
        """Columns for the records of one unit."""
        return web_columns.WebColumns()

    def join(self, parts: Sequence[Part], folder: epath.Path, framing: str) -> dict[str, Any]:
        """Writes the columns of all parts; returns what index.json says of them.

        Raises:
            DataSetError: the set has no text where its card names some.
        """
        self._check_fields({field for part in parts for field in part.about['texts']})
        about = web_columns.join(parts, folder)
        # Lengths and checksums stand for the pictures, and the columns' checksums for those.
        checksums = [
            about['arrays'][f'picture_{name}']['crc32c'] for name in ('length', 'checksum')
        ]
        content = f'{framing} {checksums} {self.fingerprint}'
        return {
            'kind': self.kind,
            'card': self.card.name,
            'framing': framing,
            'fingerprint': hashlib.sha256(content.encode()).hexdigest()[:32],
            **about,
        }

    def _check_fields(self, present: set[str]) -> None:
        """A field that the card names but nothing has is a mistyped one, unless the format's default."""
        card = self.card
        default = find(card.name) if card.name in ('webdataset', 'jsonl') else None
        for field in TEXTS:
            path = getattr(card, field)
            is_own = path and (default is None or path != getattr(default, field))
            if is_own and field not in present:
                raise DataSetError(
                    f'{self.directory}: no record has text under {path!r}, which its card names as '
                    f'its {field}' + nearest(path, self.keys())
                )
        if not present & set(TEXTS):
            raise DataSetError(
                f'{self.directory}: no record has any text under {card.paths}; name the paths in '
                f'config.data.web.NAME.fields; the set has {", ".join(self.keys())}'
            )
