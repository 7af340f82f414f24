"""Time that counts as steps, and saving once."""

import contextlib
import time
import types

import pytest

from rt2_jax.training import hooks


def test_rates_are_over_the_steps_since_the_last_log_point():
    clock = hooks.Clock()
    clock.reset(4)
    time.sleep(0.05)
    clock.add_wait(0.02)
    rates = clock.report(9, batch_size=8, flops=10.0, peak=100.0)
    assert 0 < rates['steps_per_second'] <= 5 / 0.05
    assert rates['examples_per_second'] == pytest.approx(8 * rates['steps_per_second'])
    assert rates['mfu'] == pytest.approx(rates['steps_per_second'] / 10)
    assert 0 < rates['data_wait'] <= 0.02 / 0.05
    assert clock.report(9, 8, 10.0, 100.0) == {}  # no step since
    assert clock.report(10, 8, 10.0, 100.0)['data_wait'] == 0


def test_pauses_are_no_goodput():
    clocks = hooks.Clock(), hooks.Clock()
    for clock in clocks:
        clock.reset(0)
    with clocks[1].paused():
        time.sleep(0.05)
    first, second = (clock.report(1, 1, 1.0, 1.0) for clock in clocks)
    assert second['goodput'] < first['goodput']


def test_a_step_is_saved_once_and_after_the_log():
    calls = []
    checkpoints = types.SimpleNamespace(save=lambda state, data, step: calls.append((data, step)))
    batches = types.SimpleNamespace(get_state=lambda: 'position')
    log = types.SimpleNamespace(paused=contextlib.nullcontext, flush=lambda: calls.append('flush'))
    save = hooks.Save(checkpoints, batches, log, start=3)
    for step in (3, 5, 5, 6):
        save('state', step)
    assert calls == ['flush', ('position', 5), 'flush', ('position', 6)]
