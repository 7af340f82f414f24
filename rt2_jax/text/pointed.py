"""Instructions with places where things were named, as MOO has them (arXiv 2303.00905, section 3).

    push banana to drum  ->  push 410 530 to 210 330

A vision-language model says where the things are; the policy reads verbs alone, and an image channel in which
those places are painted. A thing that isn't anywhere is at `NOWHERE`.
"""

from collections.abc import Callable, Iterable
import re

from rt2_jax.text import places

NOWHERE = '0 0'  # no point of the grid of `places` is written so
_PHRASE = re.compile(
    r'(?P<verb>\w+) (?P<x>.+?)(?: (?P<link>to|near) (?P<y>.+)| (?P<way>left|right|over|upright))?'
)
_POINT = re.compile(r'\w+ \d+ \d+( .*)?')


def things(instruction: str) -> list[str]:
    """The things that an instruction names, X and perhaps Y; [] for one of another form."""
    match = _PHRASE.fullmatch(instruction.strip().rstrip('.'))
    return [_bare(match[name]) for name in ('x', 'y') if match[name]] if match else []


def with_places(instruction: str, where: Callable[[str], Iterable[float] | None]) -> str:
    """The instruction with places for things.

    Args:
        instruction: such as "push banana to drum"; one of another form stays as it is.
        where: a thing's name to its place, coordinates in [0, 1]; None for a thing that isn't there.
    """
    match = _PHRASE.fullmatch(instruction.strip().rstrip('.'))
    if not match:
        return instruction

    def place(name: str) -> str:
        point = where(_bare(match[name]))
        return NOWHERE if point is None else places.write_point(point)

    words = [match['verb'], place('x')]
    if match['y']:
        words += [match['link'], place('y')]
    return ' '.join([*words, *filter(None, [match['way']])])


def has_places(instruction: str) -> bool:
    """Whether an instruction is one of `with_places` already."""
    return bool(_POINT.fullmatch(instruction.strip()))


def _bare(name: str) -> str:
    return name.removeprefix('the ')
