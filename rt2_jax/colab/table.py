"""Tables in a notebook."""

from collections.abc import Sequence
import html
from typing import Any

from IPython.display import HTML

_STYLE = (
    'border-collapse:collapse;font-family:monospace;font-size:13px;white-space:pre;line-height:1.3'
)


def show(
    header: Sequence[str], rows: Sequence[Sequence[Any]], shares: Sequence[float] = ()
) -> HTML:
    """A table whose numbers are aligned on the right.

    Args:
        header: names of the columns.
        rows: of cells; numbers are written with commas and four digits, texts as they are.
        shares: in [0, 1], one a row: how far the row is underlaid with colour.
    """
    head = ''.join(_cell(name, 'th', _is_right(rows, i)) for i, name in enumerate(header))
    body = ''
    for number, row in enumerate(rows):
        cells = ''.join(_cell(value, 'td', _is_right(rows, i)) for i, value in enumerate(row))
        body += f'<tr{_underlay(shares[number]) if shares else ""}>{cells}</tr>'
    return HTML(f'<table style="{_STYLE}"><tr>{head}</tr>{body}</table>')


def number(value: Any) -> str:
    """A number as it is written in a table: 12,345 or 0.01234."""
    if isinstance(value, float):
        return f'{value:,.4g}' if abs(value) < 1e4 else f'{value:,.0f}'
    return f'{value:,}' if isinstance(value, int) and not isinstance(value, bool) else str(value)


def _is_right(rows: Sequence[Sequence[Any]], column: int) -> bool:
    values = [row[column] for row in rows if row[column] != '']
    return bool(values) and all(isinstance(value, (int, float)) for value in values)


def _cell(value: Any, tag: str, right: bool) -> str:
    side = 'right' if right else 'left'
    style = f'text-align:{side};padding:1px 10px;background:none'
    return f'<{tag} style="{style}">{html.escape(number(value))}</{tag}>'


def _underlay(share: float) -> str:
    colour = 'rgba(0,114,178,0.18)'
    stop = f'{100 * share:.1f}%'
    return f' style="background:linear-gradient(to right,{colour} {stop},transparent {stop})"'
