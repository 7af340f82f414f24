"""How plans for instructions about composed pictures begin, as those in front of a robot's actions.

    Instruction: push the fruit to Glocke.  ->  Plan: banana 410 530 bell 610 210

They teach, without a robot, which thing and which place the words of an instruction mean. A robot's plan
goes on with its gripper, which these pictures lack, so their answers have an open end: a policy that
learnt that such a plan is over stopped as soon as its frame looked like a picture of the web.
"""

from collections.abc import Sequence
import re

import numpy as np

from rt2_jax.data.web import descriptions
from rt2_jax.data.web.compose import Placed
from rt2_jax.text import places, prompts

NAMED = re.compile(r'(\D+) (\d+ \d+)')  # a thing and its place
_KINDS = ('pick', 'push', 'turn')
_OTHER_WORDS = 0.75  # share of the things that are not called by their English names


def on_card(scene: Sequence[Placed]) -> str:
    """'the thing on red', of the first; '' where another is on that colour too, or it has no card."""
    card, *others = [placed.card for placed in scene]
    return f'the thing on {card}' if card and card not in others else ''


def ask(scene: list[Placed], rng: np.random.Generator) -> tuple[str, str]:
    """The prompt for a plan, an instruction in any words, and how its answer begins: names and places.

    It is about the first thing of the scene, and that of a push about the second, too.
    """
    kind = _choice(rng, _KINDS) if len(scene) > 1 else 'pick'
    words = [_words(scene, rng)]
    if kind == 'push':
        words.append(_words([scene[1], scene[0], *scene[2:]], rng))
        # Of two long descriptions one is left out: an instruction has 24 tokens.
        if all(' ' in some for some in words):
            words[0] = scene[0].picture.name
    named = ' '.join(
        f'{placed.picture.name} {places.write_point(placed.centre)}'
        for placed in scene[: len(words)]
    )
    wish = descriptions.wish(scene[0].picture, [placed.picture for placed in scene[1:]], rng)
    if kind == 'pick' and wish and rng.random() < 0.5:
        instruction = wish
    else:
        direction = _choice(rng, ('left', 'right')) if kind == 'turn' else ''
        instruction = prompts.phrase(kind, words[0], words[-1], direction)
    return prompts.robot_plan(instruction), prompts.plan_start(named)


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
    """Whether a plan begins with the same things as the true one, at places within `tolerance`."""
    named = [NAMED.findall(prompts.plan_text(text)) for text in (truth, guess)]
    named[1] = named[1][: len(named[0])]
    if [name for name, _ in named[0]] != [name for name, _ in named[1]]:
        return False
    points = [np.array([place.split() for _, place in plan], float) for plan in named]
    return bool((np.hypot(*(points[0] - points[1]).T) <= tolerance * places.SIDE).all())
