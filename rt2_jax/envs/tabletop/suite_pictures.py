"""What the suites lay on the tiles, and the words by which an instruction names it.

Whatever the wording, exactly one tile fits the words for X and exactly one those for Y
(tests/envs/test_suite_pictures.py), and the small web asks about all that it takes: names, signs,
persons, categories, colours of cards, sums of numbers, six languages, what a thing is for, wishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
import dataclasses

import numpy as np

from rt2_jax.data.web import compose, descriptions, pictures
from rt2_jax.data.web.pictures import Picture
from rt2_jax.envs.tabletop.scene import Vector

SMALL = 0.7  # side of a picture drawn small, of the usual
_SIGNS = ('symbol', 'number')
# Categories that anybody can distinguish, with those that they overlap with.
_CATEGORIES = {
    'fruit': ('vegetable', 'food', 'plant'),
    'vegetable': ('fruit', 'food', 'plant'),
    'animal': ('toy',),
    'vehicle': ('toy',),
    'instrument': ('toy', 'tool'),
    'tool': ('household', 'instrument', 'furniture'),
    'clothing': (),
}
# Of the small web's cards, those that no shade turns into one another.
_COLOURS = ('white', 'red', 'yellow', 'green', 'blue', 'pink')
# Words too long for this kind of task and those after it: the baselines' prompts have 24 tokens. 'turn
# the opposite of left right' would be a riddle.
_TOO_LONG = {
    'pick': 'rabbits arms wood music better films neck string space nail lock bolt',
    'turn': 'honey monkeys iron paper screw left down',
    'push': 'through plough write photos time hug hoop',
}


@dataclasses.dataclass(frozen=True)
class Things:
    """What lies on the tiles.

    Attributes:
        pictures: of the tiles; X first, then Y.
        words: for X and for Y.
        colours: of the tiles; None leaves them pale.
        scale: side of the pictures, of the usual.
    """

    pictures: list[Picture]
    words: list[str]
    colours: tuple[Vector, ...] | None = None
    scale: float = 1.0


def draw_things(rng: np.random.Generator, pool: str, wording: str, kind: str, count: int) -> Things:
    """Draws what lies on the tiles.

    Args:
        rng: draws it.
        pool: which pictures, see `suites.Suite`.
        wording: how they are named, see `suites.Suite`.
        kind: of the task.
        count: of tiles.
    """
    if wording == 'category':
        return _draw_categories(rng, _pool(pool), count)
    if wording == 'language':
        language = str(rng.choice(pictures.LANGUAGES[1:]))
        foreign = [p for p in _pool(pool) if p.names.get(language, p.name) != p.name]
        shown = _choose(rng, foreign, count)
        return Things(shown, [p.names[language] for p in shown[:2]])
    if wording == 'sign':
        return _named(_choose(rng, _pool('signs'), count))
    if wording == 'symbol':
        signs = _pool('signs')
        if kind != 'push':  # 'turn right arrow left' and 'pick up arrow' would be riddles
            signs = [p for p in signs if 'arrow' not in p.name]
        return _named(_among_alike(rng, kind, count, signs))
    if wording == 'person':
        return _named(_among_alike(rng, kind, count, pictures.people()))
    if wording == 'sum':
        shown = _among_alike(rng, kind, count, pictures.numbers())
        return _described(kind, shown, lambda p: descriptions.sum_words(p.name, rng))
    if wording == 'colour':
        return _draw_colours(rng, kind, _choose(rng, _pool(pool), count))
    if wording in ('use', 'wish'):
        return _draw_thought(rng, wording, kind, count)
    if pool == 'one_new':
        return _named(_draw_one_new(rng, count))
    if pool == 'alike':
        return dataclasses.replace(_named(_draw_alike(rng, count)), scale=SMALL)
    return _named(_choose(rng, _pool(pool), count))


def _pool(name: str) -> list[Picture]:
    if name == 'episodes':
        return list(pictures.robot_pictures())
    signs = name == 'signs'
    return [p for p in pictures.web_pictures() if (p.category in _SIGNS) == signs]


def _choose(rng: np.random.Generator, pool: Sequence[Picture], count: int) -> list[Picture]:
    return [pool[i] for i in rng.permutation(len(pool))[:count]]


def _named(shown: list[Picture]) -> Things:
    return Things(shown, [p.name for p in shown[:2]])


def _described(kind: str, shown: list[Picture], words: Callable[[Picture], str]) -> Things:
    """X in words of another kind than its name; of a push Y, as the episodes' pushes name X."""
    first, second = shown[:2]
    if kind == 'push':
        return Things(shown, [first.name, words(second)])
    return Things(shown, [words(first), second.name])


def _among_alike(
    rng: np.random.Generator, kind: str, count: int, alike: Sequence[Picture]
) -> list[Picture]:
    """One of `alike` as X, at least another of them beside it, and pictures of the episodes.

    Of a push it is Y, and X is a picture of the episodes.
    """
    pushed = 1 if kind == 'push' else 0
    number = int(rng.integers(2, count - pushed + 1))
    known = _choose(rng, _pool('episodes'), count - number)
    return known[:pushed] + _choose(rng, alike, number) + known[pushed:]


def _draw_categories(rng: np.random.Generator, pool: list[Picture], count: int) -> Things:
    names = list(_CATEGORIES)
    first = names[rng.integers(len(names))]
    others = [n for n in names if n != first and n not in _CATEGORIES[first]]
    second = others[rng.integers(len(others))]
    barred = {first, second, *_CATEGORIES[first], *_CATEGORIES[second]}
    shown = [
        _choose(rng, [p for p in pool if p.category == name], 1)[0] for name in (first, second)
    ]
    shown += _choose(rng, [p for p in pool if p.category not in barred], count - 2)
    return Things(shown, [f'the {first}', f'the {second}'])


def _draw_colours(rng: np.random.Generator, kind: str, shown: list[Picture]) -> Things:
    """Tiles of different colours, X (of a push Y) named by that under it."""
    names = [str(name) for name in rng.permutation(_COLOURS)[: len(shown)]]
    red, green, blue = (np.array([compose.COLOURS[n] for n in names]) / 255).T.tolist()
    under = dict(zip(shown, names, strict=True))
    things = _described(kind, shown, lambda picture: f'the thing on {under[picture]}')
    return dataclasses.replace(things, colours=tuple(zip(red, green, blue, strict=True)))


def _draw_thought(rng: np.random.Generator, wording: str, kind: str, count: int) -> Things:
    """X (of a push Y) in words that take a step of thought, beside another thing that has such words.

    Both are of the whole catalogue, the others of the episodes; the words fit none but X.
    """
    fitting = descriptions.wishes() if wording == 'wish' else descriptions.uses()
    possible = [words for words in fitting if not _too_long(kind, words)]
    words = possible[rng.integers(len(possible))]
    meant = _choose(rng, [p for p in pictures.catalogue() if p in fitting[words]], 1)
    meant += _choose(rng, [p for p in descriptions.useful() if p not in fitting[words]], 1)
    barred = fitting[words].union(meant)
    known = _choose(rng, [p for p in _pool('episodes') if p not in barred], count - 2)
    pushed = 1 if kind == 'push' else 0
    return _described(kind, known[:pushed] + meant + known[pushed:], lambda _: words)


def _too_long(kind: str, words: str) -> bool:
    kinds = list(_TOO_LONG)
    long = ' '.join(_TOO_LONG[k] for k in kinds[: kinds.index(kind) + 1])
    return not set(words.split()).isdisjoint(long.split())


def _draw_one_new(rng: np.random.Generator, count: int) -> list[Picture]:
    """X is new, and stands out: the others are the episodes', of other categories."""
    new = _choose(rng, _pool('web'), 1)
    others = [p for p in _pool('episodes') if p.category != new[0].category]
    return new + _choose(rng, others, count - 1)


def _draw_alike(rng: np.random.Generator, count: int) -> list[Picture]:
    """All are new, and one of the others is of X's category."""
    pool = _pool('web')
    first, *rest = _choose(rng, pool, len(pool))
    alike = next(p for p in rest if p.category == first.category)
    others = [alike, *(p for p in rest if p is not alike)][: count - 1]
    return [first, *_choose(rng, others, count - 1)]
