"""The small web: composed pictures with questions and answers, made on the fly from an index.

It stands for the web sets of the RT-2 paper (WebLI and VQA sets, arXiv 2307.15818 appendix B): real
human-drawn pictures with their real names, in scenes and questions by template. Item `i` is a pure
function of (seed, i): random access, no files, no state.
"""

from collections.abc import Callable, Mapping
import dataclasses
import functools

import numpy as np

from rt2_jax.data.example import Example
from rt2_jax.data.web import compose, pictures, variety
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts

MAP_SIDE = 6  # cells a side of a 'map'
NUMBER_WORDS = ('zero', 'one', 'two', 'three', 'four', 'five')
NOTHING = '0'  # what a 'map' says of an empty cell
LANGUAGE_NAMES = {
    'en': 'english',
    'de': 'german',
    'es': 'spanish',
    'fr': 'french',
    'it': 'italian',
    'pt': 'portuguese',
}
# What is asked, and how often. Where a lone thing is teaches places before names are understood;
# lists teach both together, the densest kind there is.
KINDS = {
    'name': 0.18,
    'name_language': 0.04,
    'category': 0.04,
    'where_lone': 0.13,
    'where': 0.34,
    'where_category': 0.03,
    'where_language': 0.03,
    'where_sum': 0.0,  # a number by arithmetic
    'what': 0.05,
    'list': 0.11,
    'way': 0.0,  # not learnt at a few hundredths; the robot's frames ask it of the gripper
    'count': 0.01,
    'colour': 0.02,
    'yes_no': 0.02,
    'map': 0.0,  # one word a cell, for training a vision tower alone
    'map_any': 0.0,  # the same in any language, or by category
}
_LONE = ('name', 'name_language', 'category', 'where_lone')  # kinds that show one picture
# How often it is a lone picture of any size, not of a scene's tiles.
_ANY_SIZE = {'name': 0.6, 'name_language': 0.6, 'category': 0.6, 'map': 0.3, 'map_any': 0.3}
_MAPS = ('map', 'map_any')
_MAP_CATEGORY = 0.2  # share of 'map_any' that says categories; the rest are languages alike


@dataclasses.dataclass(frozen=True)
class SmallWeb:
    """Questions about composed pictures, by index.

    >>> web = SmallWeb(seed=0)
    >>> web[12].prompt, web[12].answer
    ('Q: where is the frog? A:', '430 610')

    Attributes:
        seed: another seed is another web.
        size: height and width of a frame in pixels.
        length: the number of items; indices from 0 to length - 1 are valid.
        kinds: question kind -> relative frequency (`KINDS` is the default).
        rotation: the largest rotation of a picture, in radians.
        people: whether persons are among the pictures, too.
        varied: whether surfaces, light, clutter, perspective and ways of drawing vary (variety.py).
    """

    seed: int = 0
    size: int = 96
    length: int = 1 << 30
    kinds: Mapping[str, float] = dataclasses.field(default_factory=lambda: dict(KINDS))
    rotation: float = 0.3
    people: bool = False
    varied: bool = False
    name: str = 'web'

    def __post_init__(self):
        for kind in self.kinds:
            check('kind of question', kind, KINDS)
        if not sum(self.kinds.values()) > 0:
            raise ValueError(
                f'The frequencies of the kinds of questions add up to nothing: {self.kinds}'
            )

    def __len__(self) -> int:
        return self.length

    @functools.cached_property
    def _pictures(self) -> tuple[pictures.Picture, ...]:
        return pictures.catalogue() + (pictures.people() if self.people else ())

    @functools.cached_property
    def _thresholds(self) -> tuple[list[str], np.ndarray]:
        kinds = sorted(self.kinds)
        weights = np.array([self.kinds[k] for k in kinds], np.float64)
        return kinds, np.cumsum(weights / weights.sum())

    def __getitem__(self, index: int) -> Example:
        if not 0 <= index < self.length:
            raise IndexError(f'Item {index} of a small web of {self.length}')
        rng = np.random.Generator(np.random.Philox(key=[self.seed, index]))
        kinds, thresholds = self._thresholds
        kind = kinds[
            min(int(np.searchsorted(thresholds, rng.random(), side='right')), len(kinds) - 1)
        ]
        scene, frame = self._scene(rng, kind)
        question, answer = _ask(kind, scene, rng, self._pictures)
        return Example(
            frames=frame[None],
            prompt=prompts.web(question),
            answer=answer,
            action=None,
            source=self.name,
            kind=kind,
        )

    def _scene(self, rng, kind) -> tuple[list[compose.Placed], np.ndarray]:
        canvas = self._background(rng)
        flatten, thickness = 1.0, 0.0
        if kind in _ANY_SIZE and rng.random() < _ANY_SIZE[kind]:
            scene = [self._lone(rng)]
        else:
            if rng.random() < 0.6:
                flatten, thickness = rng.uniform(0.75, 1.0), rng.uniform(0.0, 0.06)
            count = 1 if kind in _LONE else int(rng.integers(1 if kind in _MAPS else 2, 5))
            scene = self._several(
                rng,
                count,
                distinct_categories=kind == 'where_category',
                number=kind == 'where_sum',
                cards=kind == 'colour' or rng.random() < 0.7,
            )
        if self.varied:
            scene = [self._vary(placed, rng) for placed in scene]
        for placed in sorted(scene, key=lambda p: p.centre[1]):
            compose.draw(canvas, placed, flatten, thickness)
        if rng.random() < 0.2:
            compose.distract(canvas, rng)
        if self.varied:
            variety.light(canvas, rng)
        return scene, compose.finish(canvas, rng)

    def _background(self, rng) -> np.ndarray:
        if self.varied and rng.random() < 0.6:
            canvas = variety.surface(rng, self.size)
        else:
            canvas = compose.background(rng, self.size)
        canvas = np.ascontiguousarray(canvas, np.float32)
        if self.varied and rng.random() < 0.3:
            variety.clutter(canvas, rng)
        return canvas

    def _vary(self, placed: compose.Placed, rng) -> compose.Placed:
        return dataclasses.replace(
            placed,
            side=placed.side * rng.uniform(0.75, 1.1),
            rotation=placed.rotation * rng.uniform(1.0, 2.0),
            style=int(rng.integers(1 << 32)) if rng.random() < 0.35 else None,
        )

    def _lone(self, rng) -> compose.Placed:
        side = rng.uniform(0.3, 0.95)
        room = max(0.0, 0.5 - side / 2)
        centre = tuple(rng.uniform(0.5 - room, 0.5 + room, 2))
        card = rng.choice(list(compose.COLOURS)) if rng.random() < 0.3 else None
        return compose.Placed(
            _choice(rng, self._pictures),
            centre,
            side,
            rng.uniform(-self.rotation, self.rotation),
            card,
        )

    def _several(self, rng, count, distinct_categories, cards, number) -> list[compose.Placed]:
        """Lays pictures of about one size without overlap, by rejection; the first may be a number."""
        side = rng.uniform(0.21, 0.32 if count < 4 else 0.28)
        centres = _apart(rng, count, margin=0.4 * side, distance=1.15 * side)
        chosen = [_choice(rng, pictures.numbers())] if number else []
        while len(chosen) < count:
            picture = _choice(rng, self._pictures)
            taken = (
                {p.category for p in chosen} if distinct_categories else {p.code for p in chosen}
            )
            if (picture.category if distinct_categories else picture.code) not in taken:
                chosen.append(picture)
        # As on a table, most cards are white.
        colours = [
            'white' if rng.random() < 0.5 else str(rng.choice(list(compose.COLOURS)))
            for _ in range(count)
        ]
        return [
            compose.Placed(
                picture,
                tuple(centre),
                side * rng.uniform(0.9, 1.1),
                rng.uniform(-self.rotation, self.rotation),
                colour if cards else None,
            )
            for picture, centre, colour in zip(chosen, centres, colours)
        ]


def _apart(rng, count, margin, distance) -> list[np.ndarray]:
    """Draws points of the unit square, none nearer to another than `distance`."""
    points: list[np.ndarray] = []
    tries = 0
    while len(points) < count:
        tries += 1
        if tries % 50 == 0:  # the points so far may leave no room
            points = []
        point = rng.uniform(margin, 1 - margin, 2)
        if all(np.hypot(*(point - other)) > distance for other in points):
            points.append(point)
    return points


def _choice(rng, items):
    return items[int(rng.integers(len(items)))]


def _ask(kind: str, scene: list[compose.Placed], rng, shown) -> tuple[str, str]:
    """Returns (question, answer) about a scene of pictures of `shown`."""
    one = scene[0] if kind == 'where_sum' else _choice(rng, scene)
    name, picture = one.picture.name, one.picture
    languages = [language for language in picture.names if language != 'en']
    match kind:
        case 'name':
            return 'what is in the image', name
        case 'name_language':
            language = _choice(rng, languages or ['en'])
            return f'what is in the image in {LANGUAGE_NAMES[language]}', picture.names[language]
        case 'category':
            return 'what kind of thing is in the image', picture.category
        case 'where' | 'where_lone':
            return f'where is the {name}', places.write_point(one.centre)
        case 'where_language':
            return (
                f'where is the {picture.names[_choice(rng, languages or ["en"])]}',
                places.write_point(one.centre),
            )
        case 'where_category':
            return f'where is the {picture.category}', places.write_point(one.centre)
        case 'where_sum':
            return f'where is {_sum(picture.name, rng)}', places.write_point(one.centre)
        case 'what':
            jitter = rng.uniform(-0.25, 0.25, 2) * one.side
            return f'what is at {places.write_point(np.asarray(one.centre) + jitter)}', name
        case 'list':
            ordered = sorted(scene, key=lambda p: p.centre[0])
            return 'list all', ', '.join(
                f'{p.picture.name} {places.write_point(p.centre)}' for p in ordered[:3]
            )
        case 'way':
            other = _choice(rng, [p for p in scene if p is not one])
            return f'which way from the {name} to the {other.picture.name}', places.write_offset(
                one.centre, other.centre
            )
        case 'map':
            return 'what is in each cell', ' '.join(_cells(scene, _last_word))
        case 'map_any':
            if rng.random() < _MAP_CATEGORY:
                return 'what is in each cell', ' '.join(_cells(scene, lambda p: p.category))
            language = _choice(rng, pictures.LANGUAGES)
            return 'what is in each cell', ' '.join(
                _cells(scene, lambda picture: _any_word(picture, language, rng))
            )
        case 'count':
            return 'how many things are in the image', str(len(scene))
        case 'colour':
            return f'what colour is under the {name}', one.card
        case 'yes_no':
            if rng.random() < 0.5:
                return f'is there a {name}', 'yes'
            here = {p.picture.code for p in scene}
            absent = [p for p in shown if p.code not in here]
            return f'is there a {_choice(rng, absent).name}', 'no'


def _cells(scene: list[compose.Placed], word: Callable[[pictures.Picture], str]) -> list[str]:
    """One word a cell of the frame, by row: that of what covers its centre."""
    centres = (np.arange(MAP_SIDE) + 0.5) / MAP_SIDE
    words = [word(placed.picture) for placed in scene]
    cells = []
    for v in centres:
        for u in centres:
            # Distances in half sides; a little beyond the edge counts, as most of the cell is covered.
            far = [2 * max(abs(u - p.centre[0]), abs(v - p.centre[1])) / p.side for p in scene]
            near = int(np.argmin(far))
            cells.append(words[near] if far[near] < 1.15 else NOTHING)
    return cells


def _sum(name: str, rng) -> str:
    """Says 'number 3' as 'the sum of two plus one' or 'five minus two'."""
    value = int(name.split()[-1])
    if value > 1 and rng.random() < 0.5:
        part = int(rng.integers(1, value))
        return f'the sum of {NUMBER_WORDS[part]} plus {NUMBER_WORDS[value - part]}'
    less = int(rng.integers(0, len(NUMBER_WORDS) - value))
    return f'{NUMBER_WORDS[value + less]} minus {NUMBER_WORDS[less]}'


def _last_word(picture: pictures.Picture) -> str:
    return picture.name.split()[-1]


def _any_word(picture: pictures.Picture, language: str, rng) -> str:
    """A word of the picture's name in a language that is one token, as long ones may not be."""
    words = picture.names.get(language, picture.name).split()
    words = [word for word in words if 3 < len(word) < 17 and word.isalpha()]
    return _choice(rng, words or [_last_word(picture)])


def score(example: Example, answer: str, tolerance: float = 0.1) -> bool:
    """Whether an answer is right: places within `tolerance` (half a tile, in units of the frame's
    side; half the smallest picture of a scene of several), anything else to the letter.
    """
    if not example.kind.startswith('where') and example.kind != 'way':
        return answer.strip() == example.answer.strip()
    truth, guess = places.read_point(example.answer), places.read_point(answer)
    if truth is None or guess is None:
        return False
    side = places.SIDE // 2 if example.kind == 'way' else places.SIDE
    return float(np.hypot(*(truth - guess))) <= tolerance * side
