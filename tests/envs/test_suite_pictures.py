"""Every instruction has exactly one right answer, and the small web asks about what it takes."""

import collections

import numpy as np
import pytest

from rt2_jax.data.web import compose, descriptions, pictures, small_web
from rt2_jax.envs.tabletop import suite_pictures, suites
from rt2_jax.text import prompts
from rt2_jax.text.tokenizer import Tokenizer

COLOURS = {name: np.array(rgb) / 255 for name, rgb in compose.COLOURS.items()}


def references(task):
    """The words for X and, of a push, those for Y."""
    if task.group == 'wish':
        return [task.instruction]
    words = task.instruction.removeprefix(f'{task.kind} ')
    if task.kind == 'push':
        return words.split(' to ', 1)
    return [words.removesuffix(f' {task.direction}')]


def value(words):
    """Of a sum or a difference, or None."""
    number = {word: i for i, word in enumerate(pictures.NUMBER_WORDS)}
    parts = words.removeprefix('the sum of ').split()
    if len(parts) != 3 or parts[1] not in ('plus', 'minus'):
        return None
    return number[parts[0]] + number[parts[2]] * (1 if parts[1] == 'plus' else -1)


def fitting(words, tiles):
    """Numbers of the tiles that the words could mean."""
    if (total := value(words)) is not None:
        return [
            i
            for i, tile in enumerate(tiles)
            if tile.name == f'number {pictures.NUMBER_WORDS[total]}'
        ]
    if fit := {**descriptions.uses(), **descriptions.wishes()}.get(words):
        return [i for i, tile in enumerate(tiles) if tile.picture in fit]
    if words.startswith('the thing on '):
        wanted = words.removeprefix('the thing on ')
        far = [{n: np.abs(tile.colour - c).max() for n, c in COLOURS.items()} for tile in tiles]
        return [i for i, distance in enumerate(far) if min(distance, key=distance.get) == wanted]
    if words.startswith('the '):
        category = words.removeprefix('the ')
        overlapping = {category, *suite_pictures._CATEGORIES[category]}
        return [i for i, tile in enumerate(tiles) if tile.picture.category in overlapping]
    return [i for i, tile in enumerate(tiles) if words in tile.picture.names.values()]


@pytest.mark.parametrize('name', [n for n in suites.SUITES if n != 'train'])
def test_exactly_one_tile_fits(name):
    for seed in range(300):
        scene = suites.draw(name, seed)
        for place, words in enumerate(references(scene.task)):
            # X and Y of a push may be of overlapping categories, each with its own word.
            others = scene.tiles[:place] + scene.tiles[place + 1 :]
            assert fitting(words, [scene.tiles[place]]) == [0], (seed, scene.task.instruction)
            assert not fitting(words, others), (seed, scene.task.instruction)


def test_colours_of_tiles_are_far_apart():
    colours = [COLOURS[name] for name in suite_pictures._COLOURS]
    for i, colour in enumerate(colours):
        assert all(np.abs(colour - other).max() > 0.3 for other in colours[:i])


def test_the_web_asks_about_all_that_reasoning_takes():
    """Its questions, by kind, hold the very words of the instructions."""
    kinds = ('where', 'where_category', 'where_language', 'where_sum', 'colour')
    questions = {}
    for kind in kinds:
        web = small_web.SmallWeb(seed=0, size=16, kinds={kind: 1.0}, people=True)
        examples = [web[i] for i in range(400)]
        questions[kind] = {
            e.prompt.removeprefix('Q: where is ').removesuffix('? A:') for e in examples
        }
        if kind == 'colour':
            assert set(suite_pictures._COLOURS) <= {e.answer for e in examples}
    categories = {f'the {name}' for name in suite_pictures._CATEGORIES}
    assert categories <= questions['where_category']
    sums = {words for words in questions['where_sum'] if value(words) is not None}
    meant = set()
    for seed in range(300):
        scene = suites.draw('reasoning', seed)
        if scene.task.group == 'sum':
            meant.add(references(scene.task)[scene.task.kind == 'push'])
    assert len(meant & sums) > 0.8 * len(meant)
    # Names in all languages, of signs and of persons come from the catalogue that the web asks about.
    asked_about = {p.code for p in pictures.catalogue() + pictures.people()}
    for name in suites.PAPER:
        for seed in range(60):
            assert {t.picture.code for t in suites.draw(name, seed).tiles} <= asked_about
    languages = {name for p in pictures.catalogue() for name in p.names.values()}
    assert {q.removeprefix('the ') for q in questions['where_language']} - {
        p.name for p in pictures.people()
    } <= languages


def test_the_web_has_the_words_of_thought():
    """Its plans and its questions about uses hold the very words of the instructions."""
    kinds = {'where_use': 0.5, 'plan': 0.5}
    web = small_web.SmallWeb(seed=0, size=16, kinds=kinds, people=True)
    asked = ' '.join(web[i].prompt for i in range(3000))
    scenes = [suites.draw('thought', seed) for seed in range(300)]
    words = {references(s.task)[s.task.kind == 'push'] for s in scenes}
    assert len(words) > 40 and sum(some in asked for some in words) > 0.9 * len(words)
    assert {s.task.kind for s in scenes if s.task.group == 'wish'} == {'pick'}


def test_no_training_shows_drawings_by_others(monkeypatch):
    for name in suites.SUITES:
        drawn_by = {t.drawn_by for seed in range(60) for t in suites.draw(name, seed).tiles}
        assert drawn_by == {'twemoji' if name == 'redrawn' else 'openmoji'}
    raster, others = pictures.raster, []
    monkeypatch.setattr(pictures, 'raster', lambda *a, **k: others.append((a[2:], k)) or raster(*a))
    web = small_web.SmallWeb(
        seed=0, size=16, kinds=dict.fromkeys(small_web.KINDS, 1.0), people=True, varied=True
    )
    assert all(web[i].frames.size for i in range(200))
    assert len(others) > 200 and set(map(str, others)) == {'((), {})'}


def test_every_picture_of_the_episodes_is_redrawn():
    sides = collections.defaultdict(list)
    for picture in pictures.robot_pictures():
        flat = []
        for drawn_by in pictures.DRAWN_BY:
            drawing = pictures.raster(picture.code, 64, drawn_by)
            assert drawing.shape == (64, 64, 4)
            alpha = drawing[..., 3:] / 255
            flat.append(drawing[..., :3] * alpha + 255 * (1 - alpha))
            sides[drawn_by].append(max(np.ptp(i) for i in np.nonzero(alpha[..., 0] > 0.5)))
        assert np.abs(flat[0] - flat[1]).mean() > 5, picture.name
    # What is new is the style, not the size.
    assert np.mean(sides['twemoji']) == pytest.approx(np.mean(sides['openmoji']), rel=0.1)


def test_instructions_are_short_enough_for_every_policy():
    tokenizer = Tokenizer.load_default()
    for name in suites.PAPER + ('thought',):
        for seed in range(100):
            instruction = suites.draw(name, seed).task.instruction
            for prompt in (prompts.robot(instruction), prompts.robot_plan(instruction)):
                assert len(tokenizer.encode(prompt)) <= 24, prompt
