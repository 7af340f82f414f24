"""How plans for instructions about composed pictures begin, as those in front of a robot's actions.

    Instruction: push the fruit to Glocke.  ->  Plan: push banana 410 530 to bell 610 210
    Instruction: I want to be king.         ->  Plan: pick crown 250 710

They teach, without a robot, what is to be done with which thing at which place, whatever words ask for it.
A robot's plan goes on with its gripper, which these pictures lack, so their answers have an open end: a
policy that learnt that such a plan is over stopped as soon as its frame looked like a picture of the web.
"""

from collections.abc import Sequence
import re

import numpy as np

from rt2_jax.data.web import descriptions
from rt2_jax.data.web.compose import Placed
from rt2_jax.text import places, prompts

_PLACE = re.compile(r'\d+ \d+')
_KINDS = ('pick', 'push', 'turn')
_OTHER_WORDS = 0.75  # share of the things that are not called by their English names


def on_card(scene: Sequence[Placed]) -> str:
    """'the thing on red', of the first; '' where another is on that colour too, or it has no card."""
    card, *others = [placed.card for placed in scene]
    return f'the thing on {card}' if card and card not in others else ''


def ask(scene: list[Placed], rng: np.random.Generator) -> tuple[str, str]:
    """The prompt for a plan, an instruction in any words, and how its answer begins: in plain ones.

    It is about the first thing of the scene, and that of a push about the second, too.
    """
    kind = _choice(rng, _KINDS) if len(scene) > 1 else 'pick'
    words = [_words(scene, rng)]
    if kind == 'push':
        words.append(_words([scene[1], scene[0], *scene[2:]], rng))
        # Of two long descriptions one is left out: an instruction has 24 tokens.
        if all(' ' in some for some in words):
            words[0] = scene[0].picture.name
    named = [
        f'{placed.picture.name} {places.write_point(placed.centre)}'
        for placed in scene[: len(words)]
    ]
    direction = _choice(rng, ('left', 'right')) if kind == 'turn' else ''
    wish = descriptions.wish(scene[0].picture, [placed.picture for placed in scene[1:]], rng)
    if kind == 'pick' and wish and rng.random() < 0.5:
        instruction = wish
    else:
        instruction = prompts.phrase(kind, words[0], words[-1], direction)
    plan = prompts.phrase(kind, named[0], named[-1], direction)
    return prompts.robot_plan(instruction), prompts.plan_start(plan)


def _words(scene: Sequence[Placed], rng: np.random.Generator) -> str:
    """Words for the first thing of a scene that fit nothing else in it."""
    picture, *others = [placed.picture for placed in scene]
    ways = (descriptions.category, descriptions.foreign, descriptions.number, descriptions.use)
    words = [way(picture, others, rng) for way in ways] + [on_card(scene)]
    possible = [some for some in words if some]
    return _choice(rng, possible) if possible and rng.random() < _OTHER_WORDS else picture.name


def _choice(rng: np.random.Generator, items: Sequence[str]) -> str:
    return items[int(rng.integers(len(items)))]


def same(truth: str, guess: str, tolerance: float) -> bool:
    """Whether a plan begins with the words of the true one, and its places, within `tolerance`."""
    (words, points), (guessed, guessed_points) = (_parts(text) for text in (truth, guess))
    last = words.pop().split()
    count = len(points)
    if len(guessed_points) < count or guessed[:count] != words:
        return False
    if guessed[count].split()[: len(last)] != last:
        return False
    apart = np.hypot(*(points - guessed_points[:count]).T)
    return bool((apart <= tolerance * places.SIDE).all())


def _parts(answer: str) -> tuple[list[str], np.ndarray]:
    """The words of a plan before, between and behind its places, and these, int64 [N, 2]."""
    plan = prompts.plan_text(answer)
    points = [place.split() for place in _PLACE.findall(plan)]
    return [words.strip() for words in _PLACE.split(plan)], np.array(points, int).reshape(-1, 2)
