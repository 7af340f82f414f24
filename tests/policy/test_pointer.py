"""MOO's detector: a policy's answers as places in an instruction, by itself and in a policy."""

import numpy as np
import pytest

from rt2_jax import export
from rt2_jax.decoding.grammar import Kind
from rt2_jax.policy import Policy
from rt2_jax.policy.pointer import Pointer

FRAME = np.zeros((8, 8, 3), np.uint8)


class Answers:
    """A model with a place for each name, and what it was asked."""

    def __init__(self, **places):
        self.places, self.asked_of = places, []

    def answer(self, image, question):
        self.asked_of.append((image, question))
        return self.places.get(question.removeprefix('where is the '), 'no such thing')


def test_things_become_places():
    model = Answers(banana='410 530')
    pointer = Pointer(model)
    assert pointer(FRAME, 'push banana to drum') == 'push 410 530 to 0 0'
    assert [question for _, question in model.asked_of] == [
        'where is the banana', 'where is the drum'
    ]  # fmt: skip
    assert all(image is FRAME for image, _ in model.asked_of)
    assert pointer(FRAME, 'push 410 530 to 0 0') == 'push 410 530 to 0 0'
    assert len(model.asked_of) == 2


def test_a_policy_reads_places(tiny, tokenizer, action_tokenizer):
    policy = Policy.from_config(tiny.config(), tiny.params(0), tokenizer, action_tokenizer.space)
    image = np.full((16, 16, 3), 9, np.uint8)
    read = lambda text, kind=Kind.ACTION: policy.prepare(image[None], text, kind).prompt
    expected = read('pick 410 530')
    assert list(read('pick banana')) != list(expected)
    policy.pointer = Pointer(Answers(banana='410 530'))
    assert list(read('pick banana')) == list(expected)
    # Questions stay as they are.
    questions = [list(read(f'where is the {x}', Kind.TEXT)) for x in ('banana', 'drum')]
    assert questions[0] != questions[1]


def test_the_pointer_is_the_configs(tiny, tokenizer, action_tokenizer, tmp_path):
    config = tiny.config().unlock()
    config.pointer = 'package:tabletop_policy'
    policy = Policy.from_config(config, tiny.params(0), tokenizer, action_tokenizer.space)
    image = np.full((96, 96, 3), 200, np.uint8)
    with pytest.raises(ValueError, match='asks another model where things are'):
        export.export(policy, tmp_path / 'exported')
    instruction = policy.pointer(image, 'pick banana')
    assert instruction.split()[0] == 'pick' and len(instruction.split()) == 3
