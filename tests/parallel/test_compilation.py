"""What compilers say when memory is short, in the words of several versions; progress."""

import io
import time

import pytest

from rt2_jax.parallel import compilation

GIB = 1 << 30


@pytest.mark.parametrize(
    'text, needed, limit',
    [
        # libtpu 0.0.42.1, which launch/constraints.txt pins.
        (
            'RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO '
            'temporaries (24.50G) exceeds available HBM (15.75G).',
            24.5 * GIB,
            15.75 * GIB,
        ),
        # libtpu 0.0.50, with jax 0.12.0.
        (
            'RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory '
            'required for HLO temporaries (40.00G) exceeds available HBM (15.75G). HLO module: '
            'jit__lambda.\nSee https://openxla.org/xla/errors/error_1000 for more details.',
            40 * GIB,
            15.75 * GIB,
        ),
        # libtpu until 2025: github.com/erfanzar/EasyDeL/issues/166.
        (
            'RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space '
            'hbm. Used 63.75G of 30.75G hbm. Exceeded hbm capacity by 33.00G.\n\nTotal hbm usage >= '
            '65.00G:\n    reserved          1.25G',
            63.75 * GIB,
            30.75 * GIB,
        ),
        (
            'RESOURCE_EXHAUSTED: Allocation (size=34359738368) would exceed memory (size=17179869184)',
            32 * GIB,
            16 * GIB,
        ),
        (
            'RESOURCE_EXHAUSTED: Out of memory while trying to allocate 34359738368 bytes.',
            32 * GIB,
            None,
        ),
        ('RESOURCE_EXHAUSTED: no room', None, None),
    ],
)
def test_memory_that_is_too_small(text, needed, limit):
    failure = compilation.read_failure(text)
    assert failure.out_of_memory and failure.message == text.splitlines()[0]
    assert (failure.needed, failure.limit) == (needed, limit)


@pytest.mark.parametrize('text', ['INTERNAL: Mosaic failed: 3 of 4 G', ''])
def test_other_refusals_are_no_lack_of_memory(text):
    failure = compilation.read_failure(text)
    assert not failure.out_of_memory and failure.needed is None and failure.message


def test_long_work_says_how_long_it_has_taken():
    stream = io.StringIO()
    result = compilation.with_progress('compiling', lambda: time.sleep(0.3) or 7, stream, every=0.1)
    assert result == 7
    lines = stream.getvalue().splitlines()
    assert lines and all(line.startswith('compiling: 0 s') for line in lines)


def test_errors_of_the_work_come_through():
    with pytest.raises(ZeroDivisionError):
        compilation.with_progress('tracing', lambda: 1 / 0, io.StringIO())
