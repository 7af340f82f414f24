"""Other words for a thing than its English name: by category, language, colour, sum or use.

The small web teaches them in questions about composed pictures; no robot episode has them, so that
the suites `reasoning` and `thought` measure the transfer from web knowledge to control (RT-2,
arXiv 2307.15818, section 4.2; the instructions that need a step of thought, its figure 7).
"""

from collections.abc import Mapping, Sequence
import functools

import numpy as np

from rt2_jax.data.web import pictures
from rt2_jax.data.web.pictures import Picture

_DRINKS = 'teapot, wine glass'
_FOOD = 'fruit, vegetable, food'
# What a thing is for, or what it is the opposite of: words, and all the pictures that they fit (a
# category stands for its pictures).
_USES = {
    'something to cut paper with': 'scissors',
    'something to hit a nail with': 'hammer',
    'something to turn a screw with': 'screwdriver',
    'something to tighten a bolt with': 'wrench',
    'something to chop wood with': 'axe',
    'something to open a lock with': 'key',
    'something to write with': 'pencil',
    'something that pulls iron': 'magnet',
    'something against rain': 'umbrella',
    'something to take photos with': 'camera',
    'something to watch films on': 'television',
    'something to read': 'book',
    'something to tell the time': 'clock, hourglass',
    'something to drink from': _DRINKS,
    'something to eat': _FOOD,
    'something to sleep in': 'bed',
    'something to go through': 'door',
    'something for the head': 'crown, top hat',
    'something for the feet': 'shoe, socks',
    'something to see better with': 'glasses',
    'something to carry books in': 'backpack',
    'something to make music with': 'instrument',
    'something to kick': 'football',
    'something to throw in a hoop': 'basketball',
    'something to fly to space with': 'rocket',
    'something to sail with': 'sailboat',
    'something to pedal': 'bicycle',
    'something to plough with': 'tractor',
    'something for a child to hug': 'teddy bear',
    'something to fly on a string': 'kite, balloon',
    'something that makes honey': 'bee',
    'something with a trunk': 'elephant',
    'something with a long neck': 'giraffe',
    'something with eight arms': 'octopus',
    'something with stripes': 'zebra',
    'something that rabbits like': 'carrot',
    'something that monkeys like': 'banana',
    'something that mice like': 'cheese',
    'something to make wine from': 'grapes',
    'something to put on pizza': 'tomato, cheese, mushroom, pepper',
    'something that stings': 'bee, cactus',
    'something that erupts': 'volcano',
    'the opposite of day': 'moon',
    'the opposite of hot': 'snowflake',
    'the opposite of cold': 'fire, sun',
    'the opposite of left': 'right arrow',
    'the opposite of down': 'up arrow',
    'the opposite of minus': 'plus',
    'the opposite of hate': 'heart',
}
# What one would be handed on saying this.
_WISHES = {
    'I am thirsty': _DRINKS,
    'I am hungry': _FOOD,
    'I am tired': 'bed',
    'it is raining': 'umbrella',
    'I lost my key': 'key',
    'I am bored': 'television, book',
    'I want to know the time': 'clock, hourglass',
    'I want to be king': 'crown',
    'my feet are cold': 'shoe, socks',
    'it is dark': 'candle, light bulb',
    'it is my birthday': 'cake, gift, balloon',
    'I want to play football': 'football',
}


@functools.cache
def uses() -> Mapping[str, frozenset[Picture]]:
    """Words for what a thing is for -> the pictures that they fit."""
    return {words: _fitting(names) for words, names in _USES.items()}


@functools.cache
def wishes() -> Mapping[str, frozenset[Picture]]:
    """Sentences -> the pictures of what would be handed to somebody who says so."""
    return {words: _fitting(names) for words, names in _WISHES.items()}


@functools.cache
def useful() -> tuple[Picture, ...]:
    """The pictures that some words of `uses` fit, in the catalogue's order."""
    return tuple(p for p in pictures.catalogue() if any(p in fit for fit in uses().values()))


def _fitting(names: str) -> frozenset[Picture]:
    wanted = names.split(', ')
    return frozenset(p for p in pictures.catalogue() if p.name in wanted or p.category in wanted)


def category(picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> str:
    """'the fruit'; as all of these, '' where the words fit another picture too, or there are none."""
    del rng
    alike = any(other.category == picture.category for other in others)
    return '' if alike else f'the {picture.category}'


def foreign(picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> str:
    """'Banane', in a language that the draw decides."""
    del others
    languages = [name for key, name in picture.names.items() if key != 'en']
    return languages[int(rng.integers(len(languages)))] if languages else ''


def number(picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> str:
    """'the sum of two plus one' or, in figures, 'number 3', of a number."""
    del others
    if picture.category != 'number':
        return ''
    return f'number {_value(picture.name)}' if rng.random() < 0.2 else sum_words(picture.name, rng)


def use(picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> str:
    """'something to cut paper with'."""
    return _fits_alone(uses(), picture, others, rng)


def wish(picture: Picture, others: Sequence[Picture], rng: np.random.Generator) -> str:
    """'I am thirsty', a sentence of its own."""
    return _fits_alone(wishes(), picture, others, rng)


def _fits_alone(
    fitting: Mapping[str, frozenset[Picture]],
    picture: Picture,
    others: Sequence[Picture],
    rng: np.random.Generator,
) -> str:
    words = [w for w, fit in fitting.items() if picture in fit and not fit.intersection(others)]
    return words[int(rng.integers(len(words)))] if words else ''


def sum_words(name: str, rng: np.random.Generator) -> str:
    """Writes 'number three' as 'the sum of two plus one' or 'five minus two'."""
    value = _value(name)
    if value > 1 and rng.random() < 0.5:
        part = int(rng.integers(1, value))
        return (
            f'the sum of {pictures.NUMBER_WORDS[part]} plus {pictures.NUMBER_WORDS[value - part]}'
        )
    less = int(rng.integers(0, len(pictures.NUMBER_WORDS) - value))
    return f'{pictures.NUMBER_WORDS[value + less]} minus {pictures.NUMBER_WORDS[less]}'


def _value(name: str) -> int:
    return pictures.NUMBER_WORDS.index(name.split()[-1])
