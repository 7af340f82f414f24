"""The small web: composed pictures with questions and answers, made on the fly.

It stands in for the web sets of RT-2 (WebLI and VQA sets, arXiv 2307.15818, appendix B): drawings by
people with their real names, in scenes and questions by template. Item `i` is a pure function of
(seed, i): random access, no files, no state.
"""

from collections.abc import Callable, Mapping, Sequence
import dataclasses
import functools
from typing import TypeVar

import numpy as np

from rt2_jax.data.example import Example
from rt2_jax.data.web import compose, descriptions, pictures, variety, web_plans
from rt2_jax.data.web.compose import Placed
from rt2_jax.data.web.pictures import Picture
from rt2_jax.nearest import check
from rt2_jax.text import places, prompts

T = TypeVar('T')

MAP_SIDE = 6  # cells a side of a 'map'
NOTHING = '0'  # an empty cell in the answer to a 'map'
LANGUAGE_NAMES = {
    'en': 'english',
    'de': 'german',
    'es': 'spanish',
    'fr': 'french',
    'it': 'italian',
    'pt': 'portuguese',
}
# Kinds of questions and their frequencies. 'where_lone' teaches places before names are understood;
# 'list' teaches both together, most per example.
KINDS = {
    'name': 0.18,
    'name_language': 0.04,
    'category': 0.04,
    'where_lone': 0.13,
    'where': 0.34,
    'where_category': 0.03,
    'where_language': 0.03,
    'where_sum': 0.0,  # a number, named by a sum, a difference or in figures
    'where_colour': 0.0,  # a thing, named by the colour of its card
    'where_use': 0.0,  # a thing, named by what it is for
    'plan': 0.0,  # an instruction in any words, answered by names and places as a plan has them
    'what': 0.05,
    'list': 0.11,
    'way': 0.0,  # not learnt at 0.02 to 0.04; frame_questions asks it of the gripper
    'count': 0.01,
    'colour': 0.02,
    'yes_no': 0.02,
    'map': 0.0,  # one word per cell, for training a vision tower alone
    'map_any': 0.0,  # the same in any language, or by category
}
_LONE = ('name', 'name_language', 'category', 'where_lone')  # kinds that show one picture
# Share of examples with a lone picture of any size, instead of tiles.
_ANY_SIZE = {'name': 0.6, 'name_language': 0.6, 'category': 0.6, 'map': 0.3, 'map_any': 0.3}
_MAPS = ('map', 'map_any')
_ALIKE = 0.3  # share of varied scenes that have two things of one category, such as two numbers
_FIRST = ('where_sum', 'where_use', 'plan')  # kinds that ask about a scene's first thing
_MAP_CATEGORY = 0.2  # share of 'map_any' with categories; languages share the rest equally


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

    def __post_init__(self) -> None:
        for kind in self.kinds:
            check('kind of question', kind, KINDS)
        if not sum(self.kinds.values()) > 0:
            raise ValueError(
                f'The frequencies of the kinds of questions add up to nothing: {self.kinds}'
            )

    def __len__(self) -> int:
        return self.length

    @functools.cached_property
    def _pictures(self) -> tuple[Picture, ...]:
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
        number = int(np.searchsorted(thresholds, rng.random(), side='right'))
        kind = kinds[min(number, len(kinds) - 1)]
        scene, frame = self._scene(rng, kind)
        if kind == 'plan':
            prompt, answer = web_plans.ask(scene, rng)
        else:
            question, answer = _ask(kind, scene, rng, self._pictures)
            prompt = prompts.web(question)
        return Example(
            frames=frame[None],
            prompt=prompt,
            answer=answer,
            action=None,
            source=self.name,
            kind=kind,
            open_end=kind == 'plan',
        )

    def _scene(self, rng: np.random.Generator, kind: str) -> tuple[list[Placed], np.ndarray]:
        """Draws a scene for a kind of question: its pictures, and the frame uint8 [S, S, 3]."""
        canvas = self._background(rng)
        flatten, thickness = 1.0, 0.0
        if kind in _ANY_SIZE and rng.random() < _ANY_SIZE[kind]:
            scene = [self._lone(rng)]
        else:
            if rng.random() < 0.6:
                flatten, thickness = rng.uniform(0.75, 1.0), rng.uniform(0.0, 0.06)
            count = 1 if kind in _LONE else int(rng.integers(1 if kind in _MAPS else 2, 5))
            cards = kind in ('colour', 'where_colour') or rng.random() < 0.7
            scene = self._several(rng, kind, count, cards)
        if self.varied:
            scene = [self._vary(placed, rng) for placed in scene]
        for placed in sorted(scene, key=lambda placed: placed.centre[1]):
            compose.draw(canvas, placed, flatten, thickness)
        if rng.random() < 0.2:
            compose.distract(canvas, rng)
        if self.varied:
            variety.light(canvas, rng)
        return scene, compose.finish(canvas, rng)

    def _background(self, rng: np.random.Generator) -> np.ndarray:
        if self.varied and rng.random() < 0.6:
            canvas = variety.surface(rng, self.size)
        else:
            canvas = compose.background(rng, self.size)
        canvas = np.ascontiguousarray(canvas, np.float32)
        if self.varied and rng.random() < 0.3:
            variety.clutter(canvas, rng)
        return canvas

    def _vary(self, placed: Placed, rng: np.random.Generator) -> Placed:
        return dataclasses.replace(
            placed,
            side=placed.side * rng.uniform(0.75, 1.1),
            rotation=placed.rotation * rng.uniform(1.0, 2.0),
            style=int(rng.integers(1 << 32)) if rng.random() < 0.35 else None,
        )

    def _lone(self, rng: np.random.Generator) -> Placed:
        side = rng.uniform(0.3, 0.95)
        reach = max(0.0, 0.5 - side / 2)
        u, v = rng.uniform(0.5 - reach, 0.5 + reach, 2)
        card = rng.choice(list(compose.COLOURS)) if rng.random() < 0.3 else None
        picture = _choice(rng, self._pictures)
        return Placed(picture, (u, v), side, rng.uniform(-self.rotation, self.rotation), card)

    def _two_alike(
        self, chosen: list[Picture], count: int, rng: np.random.Generator
    ) -> list[Picture]:
        first = chosen[0] if chosen else _choice(rng, self._pictures)
        alike = [p for p in self._pictures if p.category == first.category and p != first]
        return [first, _choice(rng, alike)][:count]

    def _several(
        self, rng: np.random.Generator, kind: str, count: int, cards: bool
    ) -> list[Placed]:
        """Pictures of about one size without overlap, on cards or not; the first fits the kind."""
        side = rng.uniform(0.21, 0.32 if count < 4 else 0.28)
        centres = _apart(rng, count, margin=0.4 * side, distance=1.15 * side)
        chosen = [_choice(rng, _first(kind, rng))] if kind in _FIRST else []
        same = 'category' if kind == 'where_category' else 'code'
        if self.varied and same == 'code' and rng.random() < _ALIKE:
            chosen = self._two_alike(chosen, count, rng)
        while len(chosen) < count:
            picture = _choice(rng, self._pictures)
            if all(getattr(picture, same) != getattr(other, same) for other in chosen):
                chosen.append(picture)
        # As on a table, most cards are white.
        colours = [
            'white' if rng.random() < 0.5 else str(rng.choice(list(compose.COLOURS)))
            for _ in range(count)
        ]
        if kind == 'where_colour':
            colours[0] = _choice(rng, [c for c in compose.COLOURS if c not in colours[1:]])
        return [
            Placed(
                picture,
                (u, v),
                side * rng.uniform(0.9, 1.1),
                rng.uniform(-self.rotation, self.rotation),
                colour if cards else None,
            )
            for picture, (u, v), colour in zip(chosen, centres, colours, strict=True)
        ]


def _apart(
    rng: np.random.Generator, count: int, margin: float, distance: float
) -> list[np.ndarray]:
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


def _choice(rng: np.random.Generator, items: Sequence[T]) -> T:
    return items[int(rng.integers(len(items)))]


def _ask(
    kind: str, scene: list[Placed], rng: np.random.Generator, catalogue: Sequence[Picture]
) -> tuple[str, str]:
    """Returns (question, answer) about a scene of pictures of the catalogue."""
    thing = scene[0] if kind in _FIRST or kind == 'where_colour' else _choice(rng, scene)
    picture, point = thing.picture, places.write_point(thing.centre)
    name, names = picture.name, picture.names
    languages = [language for language in names if language != 'en'] or ['en']
    match kind:
        case 'name':
            return 'what is in the image', name
        case 'name_language':
            language = _choice(rng, languages)
            return f'what is in the image in {LANGUAGE_NAMES[language]}', names[language]
        case 'category':
            return 'what kind of thing is in the image', picture.category
        case 'where' | 'where_lone':
            return f'where is the {name}', point
        case 'where_language':
            return f'where is the {names[_choice(rng, languages)]}', point
        case 'where_category':
            return f'where is the {picture.category}', point
        case 'where_sum':
            return f'where is {descriptions.number(picture, (), rng)}', point
        case 'where_colour':
            return f'where is {web_plans.on_card(scene)}', point
        case 'where_use':
            others = [placed.picture for placed in scene[1:]]
            return f'where is {descriptions.use(picture, others, rng) or name}', point
        case 'what':
            jitter = rng.uniform(-0.25, 0.25, 2) * thing.side
            return f'what is at {places.write_point(np.asarray(thing.centre) + jitter)}', name
        case 'list':
            ordered = sorted(scene, key=lambda placed: placed.centre[0])
            listed = [f'{p.picture.name} {places.write_point(p.centre)}' for p in ordered[:3]]
            return 'list all', ', '.join(listed)
        case 'way':
            other = _choice(rng, [placed for placed in scene if placed is not thing])
            question = f'which way from the {name} to the {other.picture.name}'
            return question, places.write_offset(thing.centre, other.centre)
        case 'map':
            return 'what is in each cell', _map(scene, _last_word)
        case 'map_any' if rng.random() < _MAP_CATEGORY:
            return 'what is in each cell', _map(scene, lambda picture: picture.category)
        case 'map_any':
            language = _choice(rng, pictures.LANGUAGES)
            return 'what is in each cell', _map(scene, lambda p: _any_word(p, language, rng))
        case 'count':
            return 'how many things are in the image', str(len(scene))
        case 'colour':
            return f'what colour is under the {name}', str(thing.card)
        case 'yes_no' if rng.random() < 0.5:
            return f'is there a {name}', 'yes'
        case 'yes_no':
            present = {placed.picture.code for placed in scene}
            absent = [picture for picture in catalogue if picture.code not in present]
            return f'is there a {_choice(rng, absent).name}', 'no'
    raise ValueError(kind)


def _first(kind: str, rng: np.random.Generator) -> Sequence[Picture]:
    """What the first thing is drawn from: numbers for sums, things of use for uses, all for plans."""
    if kind == 'where_sum':
        return pictures.numbers()
    if kind == 'where_use':
        return descriptions.useful()
    draw = rng.random()
    if draw < 0.15:
        return pictures.numbers()
    return descriptions.useful() if draw < 0.5 else pictures.catalogue()


def _map(scene: list[Placed], word: Callable[[Picture], str]) -> str:
    """One word per cell of the frame, by row: that of the picture that covers its centre."""
    words = [word(placed.picture) for placed in scene]
    centres = np.array([placed.centre for placed in scene])
    sides = np.array([placed.side for placed in scene])
    # Distances in half sides; a little beyond the edge counts, as most of the cell is covered.
    far = 2 * np.abs(_map_cells()[:, None] - centres).max(-1) / sides
    nearest_one = far.argmin(-1).tolist()
    covered = (far.min(-1) < 1.15).tolist()
    return ' '.join(
        words[one] if inside else NOTHING for one, inside in zip(nearest_one, covered, strict=True)
    )


@functools.cache
def _map_cells() -> np.ndarray:
    """The centres (u, v) of a map's cells by row, float64 [MAP_SIDE**2, 2]."""
    centres = (np.arange(MAP_SIDE) + 0.5) / MAP_SIDE
    return np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)


def _last_word(picture: Picture) -> str:
    return picture.name.split()[-1]


def _any_word(picture: Picture, language: str, rng: np.random.Generator) -> str:
    """A word of the picture's name in a language, of a length that is a single token."""
    words = picture.names.get(language, picture.name).split()
    words = [word for word in words if 3 < len(word) < 17 and word.isalpha()]
    return _choice(rng, words or [_last_word(picture)])


def score(example: Example, answer: str, tolerance: float = 0.1) -> bool:
    """Whether an answer is right: places within `tolerance`, anything else to the letter.

    Args:
        example: the question, with the true answer.
        answer: to be judged.
        tolerance: in units of the frame's side; by default half the smallest tile.
    """
    if example.kind == 'plan':
        return web_plans.same(example.answer, answer, tolerance)
    if not example.kind.startswith('where') and example.kind != 'way':
        return answer.strip() == example.answer.strip()
    truth, guess = places.read_point(example.answer), places.read_point(answer)
    if truth is None or guess is None:
        return False
    side = places.SIDE // 2 if example.kind == 'way' else places.SIDE
    return float(np.hypot(*(truth - guess))) <= tolerance * side
