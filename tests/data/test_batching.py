"""Rows read by threads: in order, each in its place, in memory that is used again only when free."""

import gc
import threading
import time

import jax
import numpy as np
import pytest

from rt2_jax.data import batching, order

SHAPES = {'picture': ((2, 3), np.int32), 'number': ((), np.int32)}


class Numbers:
    """As RunExamples: an example is its number."""

    def __getitem__(self, numbers):
        return iter(numbers)


class Writer:
    """As ExampleEncoder: writes the number everywhere.

    Args:
        broken: the number that can't be written.
    """

    shapes = SHAPES

    def __init__(self, broken=None):
        self.broken = broken

    def write(self, examples, rows):
        numbers = list(examples)
        if self.broken in numbers:
            raise KeyError('thirteen')
        for number, picture in zip(numbers, rows['picture'], strict=True):
            time.sleep(0.001 * (number % 3))
            picture[:] = number
        rows['number'][:] = numbers


@pytest.mark.parametrize('threads', [1, 3, 40])
def test_every_row_in_its_place(threads):
    wanted = [[7, 1, 4], [2, 2, 9], list(range(50))]
    batches = list(batching.BatchReader(Numbers(), Writer(), threads).read(wanted))
    assert [batch['number'].tolist() for batch in batches] == wanted
    for batch, numbers in zip(batches, wanted, strict=True):
        assert batch['picture'].shape == (len(numbers), 2, 3)
        assert (batch['picture'] == np.reshape(numbers, [-1, 1, 1])).all()


def test_a_row_that_fails_ends_the_reading():
    reader = batching.BatchReader(Numbers(), Writer(broken=13), 2)
    batches = reader.read([range(10), range(10, 20), range(20, 30)])
    assert next(batches)['number'].tolist() == list(range(10))
    with pytest.raises(KeyError, match='thirteen'):
        next(batches)
    assert not [t for t in threading.enumerate() if t.name.startswith('reading')]


def address(array):
    return array.__array_interface__['data'][0]


def test_memory_is_used_again_when_no_view_of_it_is_left():
    memory, kind = batching.Memory(), np.dtype(np.int32)
    first = memory.empty((4, 5), kind)
    first[:] = 7
    place, view = address(first), first[1:3].view(np.uint8).T[4:]
    del first
    second = memory.empty((4, 5), kind)
    second[:] = 0
    assert address(second) != place and (view[::4] == 7).all()
    del view
    assert address(memory.empty((5, 4), kind)) == place


def test_memory_is_not_used_again_under_an_array_of_jax():
    memory, kind = batching.Memory(), np.dtype(np.float32)
    first = memory.empty((512, 512), kind)
    first[:] = 7
    place, placed = address(first), jax.device_put(first)
    del first
    gc.collect()
    second = memory.empty((512, 512), kind)
    second[:] = 0
    assert (np.asarray(placed) == 7).all()
    if jax.default_backend() == 'cpu':
        assert placed.unsafe_buffer_pointer() == place, 'the batch was copied'


@pytest.mark.parametrize('length,seed', [(7, 5), (1000, 2**32 - 2), (1, 0)])
def test_every_epoch_is_a_permutation(length, seed):
    shuffled = order.ShuffledEpochs(range(length), seed)
    epochs = [tuple(shuffled[e * length + i] for i in range(length)) for e in range(4)]
    assert all(sorted(epoch) == list(range(length)) for epoch in epochs)
    assert len(set(epochs)) == (1 if length == 1 else 4)


def test_the_order_is_that_of_grain():
    import grain

    theirs = grain.MapDataset.source(range(500)).shuffle(seed=12).repeat()
    shuffled = order.ShuffledEpochs(range(500), 12)
    assert [shuffled[i] for i in range(1200)] == [theirs[i] for i in range(1200)]
