"""The suites: which scenes and instructions are drawn.

A suite is data, and an episode of it a number: `draw(name, seed, kind)` gives the same scene
everywhere. No two suites share a seed, so no evaluation repeats a training layout.

PAPER holds the columns of RT-2's tables 4 and 6. What is easy there looks much like training, what
is hard doesn't:

  objects       easy: one new picture among the episodes' own, of other categories than it
                hard: new pictures alone, drawn small, another of X's category among them
  backgrounds   easy: the patterns of the episodes in colours far stronger than theirs
                hard: patterns that neither the episodes nor the web have, in contrasting colours
  environments  easy: the camera a little off, or a light of another side and tint
                hard: the camera further off and rolled, another light, and clutter, all at once
"""

import dataclasses

import numpy as np

from rt2_jax.data.web import compose
from rt2_jax.envs.tabletop import scene as scenes, suite_looks, suite_pictures, tasks
from rt2_jax.envs.tabletop.scene import Scene, Tile, Vector
from rt2_jax.nearest import check
from rt2_jax.text import prompts

SEEDS_PER_SUITE = 10_000_000


@dataclasses.dataclass(frozen=True)
class Suite:
    """How a suite's scenes are drawn.

    Attributes:
        name: its key in `SUITES`.
        summary: one line on what it measures.
        number: its seeds are SEEDS_PER_SUITE from number * SEEDS_PER_SUITE on.
        pictures: 'episodes' (those that the robot's episodes hold), 'web' (the others, signs apart),
            'one_new' (one of the web's among those of the episodes) or 'alike' (the web's, several
            of a category).
        wordings: how instructions name X and Y; an episode draws one. 'name', 'category',
            'language', 'colour' (of the tile), 'sum' (of a number), 'use' (what it is for), or the name
            of what no episode holds: 'sign' (all tiles are), 'symbol' or 'person' (X is, and to push Y).
            'wish', of picks alone, is a sentence in place of the instruction.
        table: of suite_looks.TABLES.
        view: camera, light and clutter, of suite_looks.VIEWS.
        drawn_by: whose drawings the pictures are, of pictures.DRAWN_BY.
        tiles: 'pale', or 'coloured': half of them have the colours of the web's cards.
    """

    name: str
    summary: str
    number: int
    pictures: str = 'episodes'
    wordings: tuple[str, ...] = ('name',)
    table: str = 'muted'
    view: str = 'usual'
    drawn_by: str = 'openmoji'
    tiles: str = 'pale'

    @property
    def seeds(self) -> range:
        """All the global seeds that belong to this suite."""
        start = self.number * SEEDS_PER_SUITE
        return range(start, start + SEEDS_PER_SUITE)


SUITES = {
    suite.name: suite
    for suite in (
        Suite('train', 'what the collected episodes are drawn from', 0),
        Suite('seen', 'pictures, tables and lights as in the episodes, new layouts', 1),
        Suite(
            'unseen_objects',
            'pictures that no episode holds, known from the web alone',
            2,
            pictures='web',
        ),
        Suite('unseen_backgrounds', 'tables with bold stripes, checks and clouds', 3, table='bold'),
        Suite(
            'unseen_environments',
            'another camera, another light, clutter around',
            4,
            view='strange',
        ),
        Suite(
            'emergent',
            'numbers and symbols, names by category, names in other languages',
            5,
            wordings=('sign', 'category', 'language'),
        ),
        Suite(
            'unseen_objects_easy',
            'a picture that no episode holds, among those of the episodes',
            6,
            pictures='one_new',
        ),
        Suite(
            'unseen_objects_hard',
            'small pictures that no episode holds, several of a category',
            7,
            pictures='alike',
        ),
        Suite(
            'unseen_backgrounds_easy',
            'plain and cloudy tables as in the episodes, in strong colours',
            8,
            table='strong',
        ),
        Suite(
            'unseen_backgrounds_hard',
            'tables with dots, rings and zigzags in contrasting colours',
            9,
            table='patterned',
        ),
        Suite(
            'unseen_environments_easy',
            'the camera a little off, or another light',
            10,
            view='shifted',
        ),
        Suite(
            'unseen_environments_hard',
            'the camera moved and rolled, another light, clutter',
            11,
            view='far',
        ),
        Suite(
            'symbols',
            'numbers and symbols, which no episode holds, by name',
            12,
            wordings=('symbol',),
        ),
        Suite(
            'reasoning',
            'things by category, by colour, by a sum, and in other languages',
            13,
            wordings=('category', 'colour', 'sum', 'language'),
        ),
        Suite(
            'people',
            'persons, which no episode holds, by occupation or trait',
            14,
            wordings=('person',),
        ),
        Suite(
            'thought',
            'things by what they are for or the opposite of, and wishes that call for a thing',
            15,
            wordings=('use', 'wish'),
        ),
        Suite(
            'redrawn',
            'the pictures of the episodes, in drawings by others, which no training shows',
            16,
            drawn_by='twemoji',
        ),
        Suite(
            'elsewhere',
            'frames without actions that training asks about: tables of the web, other cameras and lights',
            17,
            table='web',
            view='elsewhere',
            tiles='coloured',
        ),
    )
}
# The columns of RT-2's tables: generalisation, then emergent skills.
PAPER = (
    'seen',
    'unseen_objects_easy',
    'unseen_objects_hard',
    'unseen_backgrounds_easy',
    'unseen_backgrounds_hard',
    'unseen_environments_easy',
    'unseen_environments_hard',
    'symbols',
    'reasoning',
    'people',
)
_ABOUT_Y = ('symbol', 'person', 'sum', 'colour', 'use')  # wordings that to push are of Y
_WITHOUT_SALT = range(1, 6)  # 'seen' to 'emergent'


def suite(name: str) -> Suite:
    """Returns the suite called `name`; raises ValueError with the nearest valid name."""
    return SUITES[check('suite', name, SUITES)]


def global_seed(name: str, seed: int) -> int:
    """Returns the number that determines episode `seed` of a suite; raises ValueError out of range."""
    if not 0 <= seed < SEEDS_PER_SUITE:
        raise ValueError(f'Seed {seed} of suite {name!r} is outside [0, {SEEDS_PER_SUITE}).')
    return suite(name).seeds.start + int(seed)


def draw(name: str, seed: int, kind: str | None = None) -> Scene:
    """Draws episode `seed` of a suite.

    Args:
        name: the suite.
        seed: in [0, SEEDS_PER_SUITE).
        kind: 'pick', 'push' or 'turn'; None leaves it to the seed.

    Raises:
        ValueError: unknown suite or kind, or a seed out of range.
    """
    chosen = suite(name)
    number = global_seed(name, seed)
    if kind is None:
        kind = tasks.KINDS[np.random.default_rng([number]).integers(len(tasks.KINDS))]
    tasks.check_kind(kind)
    # NumPy fills up with zeros: [number, 0], of a pick, draws what [number] drew, which was 'pick'. So
    # picks whose kind is left to the seed have two tiles in the first suites, as long as results rest on
    # them; the others have a salt.
    salt = [] if chosen.number in _WITHOUT_SALT else [1]
    rng = np.random.default_rng([number, tasks.KINDS.index(kind), *salt])
    wordings = [w for w in chosen.wordings if w != 'wish' or kind == 'pick']
    wording = wordings[rng.integers(len(wordings))]
    # Where Y is what the words are about, a push has another tile to go to.
    fewest = 3 if kind == 'push' and wording in _ABOUT_Y else 2
    count = int(rng.integers(fewest, scenes.MAX_TILES + 1))
    things = suite_pictures.draw_things(rng, chosen.pictures, wording, kind, count)
    direction = str(rng.choice(tasks.DIRECTIONS)) if kind == 'turn' else ''
    shown, words = things.pictures, things.words
    task = tasks.Task(
        kind=kind,
        direction=direction,
        group=wording,
        instruction=words[0]
        if wording == 'wish'
        else prompts.phrase(kind, words[0], words[1], direction),
        plan=prompts.phrase(kind, shown[0].name, shown[1].name, direction),
    )
    centres = scenes.place_tiles(rng, count, push=kind == 'push')
    tiles = tuple(
        Tile(
            picture,
            float(x),
            float(y),
            float(rng.uniform(-scenes.TILE_YAW, scenes.TILE_YAW)),
            _card_colour(rng) if chosen.tiles == 'coloured' and rng.random() < 0.5 else _pale(rng),
            things.scale,
            chosen.drawn_by,
        )
        for picture, (x, y) in zip(shown, centres, strict=True)
    )
    if things.colours:
        tiles = tuple(
            dataclasses.replace(tile, colour=colour)
            for tile, colour in zip(tiles, things.colours, strict=True)
        )
    gripper = (
        float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(-0.15, 0.15)),
    )
    surface = suite_looks.draw_surface(rng, chosen.table)
    light, camera, clutter = suite_looks.draw_view(rng, chosen.view)
    return Scene(task, tiles, gripper, surface, light, camera, clutter)


def _card_colour(rng: np.random.Generator) -> Vector:
    red, green, blue = compose.COLOURS[str(rng.choice(list(compose.COLOURS)))]
    return red / 255, green / 255, blue / 255


def _pale(rng: np.random.Generator) -> Vector:
    return suite_looks.rgb(rng.uniform(), rng.uniform(0.0, 0.3), rng.uniform(0.88, 1.0))
