"""The parameters of a checkpoint by module, as far into the modules as one wants to see."""

from collections.abc import Mapping, Sequence
import math
from typing import Any

from IPython.display import HTML

from rt2_jax.colab import table

HEADER = ('module', 'type', 'shape', 'parameters', 'MB', 'norm', 'least', 'greatest', 'NaN, Inf')


def show(parameters: Mapping[str, Mapping[str, Any]], depth: int) -> HTML:
    """A table of modules; a row is shaded as wide as its share of the bytes.

    Args:
        parameters: by slash-separated name, as `inspection.survey` reports them.
        depth: levels of modules that are shown; 1 shows the parts of the model alone.
    """
    entries = rows(parameters, depth)
    whole = entries[0][HEADER.index('MB')]
    return table.show(HEADER, entries, [row[HEADER.index('MB')] / whole for row in entries])


def rows(parameters: Mapping[str, Mapping[str, Any]], depth: int) -> list[tuple]:
    """What `show` shows: a tuple a module or parameter, in the order of the tree, all of it first."""
    found = [_row('all', list(parameters.values()), 0)]
    seen = set()
    for name in parameters:
        parts = name.split('/')
        for level in range(1, min(depth, len(parts)) + 1):
            module = '/'.join(parts[:level])
            if module not in seen:
                seen.add(module)
                inside = [x for n, x in parameters.items() if f'{n}/'.startswith(f'{module}/')]
                found.append(_row(parts[level - 1], inside, level, leaf=module in parameters))
    return found


def _row(name: str, inside: Sequence[Mapping[str, Any]], level: int, leaf: bool = False) -> tuple:
    return (
        '  ' * level + name,
        ', '.join(sorted({x['dtype'] for x in inside})),
        ' x '.join(map(str, inside[0]['shape'])) if leaf else '',
        sum(math.prod(x['shape']) for x in inside),
        sum(x['bytes'] for x in inside) / 1e6,
        math.hypot(*(x['norm'] for x in inside)),
        min((x['min'] for x in inside if x['min'] is not None), default=''),
        max((x['max'] for x in inside if x['max'] is not None), default=''),
        sum(x['nan'] + x['inf'] for x in inside),
    )
