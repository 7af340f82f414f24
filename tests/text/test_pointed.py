"""Instructions with places for things."""

import pytest

from rt2_jax.text import pointed

PLACES = {'banana': (0.41, 0.53), 'red drum': (0.999, 0.0)}


@pytest.mark.parametrize(
    'instruction, things, expected',
    [
        ('pick banana', ['banana'], 'pick 410 530'),
        ('Pick the banana.', ['banana'], 'Pick 410 530'),
        ('push banana to the red drum', ['banana', 'red drum'], 'push 410 530 to 990 10'),
        ('move banana near red drum', ['banana', 'red drum'], 'move 410 530 near 990 10'),
        ('turn red drum left', ['red drum'], 'turn 990 10 left'),
        ('push key to banana', ['key', 'banana'], 'push 0 0 to 410 530'),
        ('wait', [], 'wait'),
    ],
)
def test_places_stand_for_things(instruction, things, expected):
    assert pointed.things(instruction) == things
    written = pointed.with_places(instruction, PLACES.get)
    assert written == expected
    assert pointed.has_places(written) == bool(things)
    assert not pointed.has_places(instruction)
