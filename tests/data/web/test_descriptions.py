"""Words for things by their use: each fits what it says, and one thing alone in its scene."""

import numpy as np

from rt2_jax.data.web import descriptions, pictures


def test_every_word_fits_pictures_of_the_catalogue():
    known = {p.name for p in pictures.catalogue()} | {p.category for p in pictures.catalogue()}
    for names in [*descriptions._USES.values(), *descriptions._WISHES.values()]:
        assert set(names.split(', ')) <= known, names


def test_words_fit_one_thing_alone():
    rng = np.random.default_rng(0)
    find = pictures.find
    scissors, bed, clock, hourglass = map(find, ('scissors', 'bed', 'clock', 'hourglass'))
    assert descriptions.use(scissors, [bed, clock], rng) == 'something to cut paper with'
    assert descriptions.wish(bed, [scissors], rng) == 'I am tired'
    assert descriptions.use(clock, [hourglass], rng) == descriptions.wish(clock, [hourglass], rng)
    assert not descriptions.use(clock, [hourglass], rng)
    assert descriptions.category(bed, [clock], rng) == 'the furniture'
    assert not descriptions.category(bed, [find('chair')], rng)
    assert descriptions.foreign(bed, [], rng) in bed.names.values()
    assert not descriptions.number(bed, [], rng)
