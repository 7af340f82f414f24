"""The small web: the same item for the same index, questions whose answers the scene holds."""

import collections

import numpy as np
import pytest

from rt2_jax.data.example import Example
from rt2_jax.data.web import pictures, small_web
from rt2_jax.text.tokenizer import Tokenizer


def test_an_item_depends_on_seed_and_index_alone():
    first, again, other = (
        small_web.SmallWeb(seed=3),
        small_web.SmallWeb(seed=3),
        small_web.SmallWeb(seed=4),
    )
    for index in (0, 17, 10**9):
        a, b = first[index], again[index]
        assert (a.prompt, a.answer, a.kind) == (b.prompt, b.answer, b.kind)
        np.testing.assert_array_equal(a.frames, b.frames)
    assert any(first[i].answer != other[i].answer for i in range(5))


def test_kinds_have_their_frequencies():
    kinds = {'name': 3.0, 'where': 1.0}
    counts = collections.Counter(small_web.SmallWeb(kinds=kinds)[i].kind for i in range(400))
    assert set(counts) == {'name', 'where'}
    assert abs(counts['name'] / 400 - 0.75) < 0.08


ALONE = ('map', 'map_any', 'way', 'where_sum')  # kinds that are not asked by default; tested below


@pytest.mark.parametrize('kind', sorted(set(small_web.KINDS) - set(ALONE)))
def test_every_kind_fits_the_tiny_model_and_scores_itself(kind):
    tokenizer = Tokenizer.load_default()
    small = small_web.SmallWeb(seed=1, kinds={kind: 1.0})
    for index in range(40):
        example = small[index]
        assert example.frames.shape == (1, 96, 96, 3)
        assert len(tokenizer.encode(example.prompt)) <= 24
        assert 0 < len(tokenizer.encode(example.answer)) < 16
        assert tokenizer.decode(tokenizer.encode(example.answer)) == example.answer
        assert small_web.score(example, example.answer)
        assert not small_web.score(example, 'nothing of the kind')


def test_a_map_has_one_word_a_cell():
    tokenizer = Tokenizer.load_default()
    small = small_web.SmallWeb(seed=1, kinds={'map': 1.0})
    words = {picture.name.split()[-1] for picture in pictures.catalogue()}
    empty = []
    for index in range(100):
        cells = small[index].answer.split()
        assert len(cells) == len(tokenizer.encode(small[index].answer)) == small_web.MAP_SIDE**2
        assert set(cells) <= words | {small_web.NOTHING} and set(cells) != {small_web.NOTHING}
        empty.append(cells.count(small_web.NOTHING) / len(cells))
    assert 0.4 < np.mean(empty) < 0.8


def test_a_place_is_where_the_picture_is():
    """The named picture's place differs from the background, or nothing could be learnt."""
    small = small_web.SmallWeb(seed=2, kinds={'where': 1.0})
    contrast = []
    for index in range(60):
        example = small[index]
        u, v = (int(x) * 96 // 1000 for x in example.answer.split())
        frame = example.frames[0].astype(float)
        patch = frame[max(v - 8, 0) : v + 8, max(u - 8, 0) : u + 8]
        contrast.append(patch.std())
    assert np.median(contrast) > 30


def test_places_are_scored_by_distance_and_words_to_the_letter():
    frames = np.zeros((1, 8, 8, 3), np.uint8)
    where = Example(frames, 'Q: where is the bell? A:', '510 510', None, 'web', 'where')
    assert small_web.score(where, '550 550') and not small_web.score(where, '590 590')
    assert not small_web.score(where, '510') and not small_web.score(where, 'bell 510 510')
    name = Example(frames, 'Q: what is in the image? A:', 'bell', None, 'web', 'name')
    assert small_web.score(name, 'bell') and not small_web.score(name, 'bells')


def test_bad_settings_are_named():
    with pytest.raises(ValueError, match="did you mean 'where'"):
        small_web.SmallWeb(kinds={'wher': 1.0})
    with pytest.raises(ValueError, match='add up to nothing'):
        small_web.SmallWeb(kinds={'where': 0.0})
    with pytest.raises(IndexError, match='small web of 10'):
        _ = small_web.SmallWeb(length=10)[10]


def test_the_catalogue_teaches_more_than_the_episodes_hold():
    assert len(pictures.catalogue()) >= 120
    assert len(pictures.robot_pictures()) <= 40
    names = [picture.name for picture in pictures.catalogue()]
    assert len(set(names)) == len(names)
    assert len({pictures.raster(p.code, 24).tobytes() for p in pictures.catalogue()}) == len(names)
    with pytest.raises(KeyError, match="did you mean 'banana'"):
        pictures.find('bananna')


def test_sums_name_the_number_that_is_shown():
    words = {word: value for value, word in enumerate(pictures.NUMBER_WORDS)}
    small = small_web.SmallWeb(seed=4, kinds={'where_sum': 1.0}, varied=True)
    lone = small_web.SmallWeb(seed=4, kinds={'where_sum': 1.0})
    for index in range(30):
        question = small[index].prompt
        first, sign, second = question.removesuffix('? A:').split()[-3:]
        if sign == 'number':  # 'where is number 3'
            value = int(second)
        else:
            value = words[first] + (1 if sign == 'plus' else -1) * words[second]
        assert 1 <= value <= 5, question
        # Another look changes neither the question nor the place.
        assert len(small[index].answer.split()) == len(lone[index].answer.split()) == 2


def test_the_varied_web_shows_persons_and_is_the_same_again():
    small, again = (small_web.SmallWeb(seed=6, people=True, varied=True) for _ in range(2))
    for index in range(20):
        np.testing.assert_array_equal(small[index].frames, again[index].frames)
    named = small_web.SmallWeb(seed=6, people=True, kinds={'name': 1.0})
    persons = {person.name for person in pictures.people()}
    assert len(persons) == len(pictures.people()) >= 20
    assert persons & {named[index].answer for index in range(60)}
    assert not persons & {picture.name for picture in pictures.catalogue()}


def test_a_map_in_any_language_has_one_word_a_cell():
    small = small_web.SmallWeb(seed=1, people=True, kinds={'map_any': 1.0})
    words = {
        word
        for picture in (*pictures.catalogue(), *pictures.people())
        for name in (*picture.names.values(), picture.category)
        for word in name.split()
    }
    for index in range(40):
        cells = small[index].answer.split()
        assert len(cells) == 36 and set(cells) <= words | {'0'}
