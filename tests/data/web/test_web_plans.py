"""Plans about composed pictures: short enough, about what is there, and judged by words and places."""

import re

import pytest

from rt2_jax.data.web import descriptions, pictures, small_web, web_plans
from rt2_jax.text.tokenizer import Tokenizer


def test_a_plan_says_what_the_words_of_an_instruction_mean():
    tokenizer = Tokenizer.load_default()
    small = small_web.SmallWeb(seed=1, kinds={'plan': 1.0}, people=True, varied=True)
    uses = descriptions.uses() | descriptions.wishes()
    checked = 0
    for index in range(400):
        example = small[index]
        assert len(tokenizer.encode(example.prompt)) <= 24, example.prompt
        assert 0 < len(tokenizer.encode(example.answer)) < 16, example.answer
        words = example.prompt.removeprefix('Instruction: ').removesuffix('.')
        kind, first = re.match(r'Plan: (pick|push|turn) (\D+) \d', example.answer).groups()
        for phrase, fitting in uses.items():
            if words in (phrase, f'pick {phrase}'):
                assert kind == 'pick' and first in {picture.name for picture in fitting}, (
                    words,
                    first,
                )
                checked += 1
        for picture in pictures.catalogue():
            if words == f'pick the {picture.category}' and picture.name == first:
                checked += 1
        assert small_web.score(example, example.answer)
    assert checked > 30


@pytest.mark.parametrize(
    'guess, right',
    [
        ('Plan: push bell 410 530 to axe 100 100.', True),
        ('Plan: push bell 450 530 to axe 100 180. Action:', True),
        ('Plan: push bell 410 530 to axe 100 100 gripper 710 510 90', True),
        ('Plan: push bell 530 530 to axe 100 100.', False),
        ('Plan: push axe 410 530 to bell 100 100.', False),
        ('Plan: pick bell 410 530.', False),
        ('Plan: push bell 410 530.', False),
        ('nothing', False),
    ],
)
def test_plans_are_the_same_by_words_and_places(guess, right):
    assert web_plans.same('Plan: push bell 410 530 to axe 100 100.', guess, 0.1) == right


@pytest.mark.parametrize(
    'end, right', [('right', True), ('right gripper 9 9', True), ('left', False)]
)
def test_a_turn_has_its_side(end, right):
    assert (
        web_plans.same('Plan: turn bell 410 530 right', f'Plan: turn bell 410 530 {end}', 0)
        == right
    )
