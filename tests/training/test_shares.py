"""What was drawn from each source, against the mixture."""

import dataclasses

import numpy as np
import pytest

from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.example import Example
from rt2_jax.data.mixture import Sources
from rt2_jax.data.pipeline import make_iterator
from rt2_jax.data.schedules import Schedule
from rt2_jax.training import shares


@dataclasses.dataclass(frozen=True)
class Plain:
    length: int
    kinds = ('plain',)

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        return Example(np.zeros([1, 8, 8, 3], np.uint8), 'what', 'no', kind='plain')


@pytest.fixture
def batches(tokenizer):
    rising = Schedule('linear', start=0, end=1, begin=0, finish=8)
    iterator = make_iterator(
        Sources.of({'a': (Plain(10), 1.0)}, {'b': (Plain(20), 1.0), 'c': (Plain(30), rising)}),
        tokenizer,
        DataConfig(image_size=8, prompt_length=4, target_length=4),
        batches=20,
        batch_size=12,
    )
    yield iterator
    iterator.close()


def test_realised_shares_and_epochs(batches, caplog):
    drawn = np.zeros(3)
    for _ in range(8):
        np.add.at(drawn, np.asarray(next(batches)['source']), 1)
    values = shares.realised(batches, 0, 8, drawn)
    assert values['mixture/a/share'] == pytest.approx(values['mixture/a/wanted']) == 0.5
    steps = np.arange(8) / 8
    assert values['mixture/c/wanted'] == pytest.approx(0.5 * np.mean(steps / (1 + steps)))
    assert abs(values['mixture/c/share'] - values['mixture/c/wanted']) < 1 / 12
    epochs = [values[f'mixture/{name}/epochs'] for name in 'abc']
    assert epochs == (drawn / [10, 20, 30]).tolist() and epochs[0] == 4.8
    assert not caplog.text


def test_a_run_that_does_not_keep_to_its_mixture_says_so(batches, caplog):
    shares.realised(batches, 4, 6, np.array([9, 10, 5]))
    assert 'steps 5 to 6 do not keep to the mixture: a 9 examples for 12.0' in caplog.text
