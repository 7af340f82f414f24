"""Messages that are none: each is refused or its connection closed, and other robots don't notice."""

import asyncio
import threading
import time

import numpy as np
from running import running, tiny_policy, twelve_pictures

from rt2_jax.benchmarks import malformed
from rt2_jax.serving.limits import Limits

LIMITS = Limits(message_bytes=2**20, seconds_to_send=1.0)
CASES = 500


def test_every_one_is_refused_and_other_robots_go_on(tiny):
    policy, pictures = tiny_policy(tiny), twelve_pictures()
    wanted = [x.action[1:] for x in policy.act_batch(pictures, ['pick banana'] * len(pictures))]
    with running(policy, limits=LIMITS) as server, server.robot() as robot:
        over, waits = threading.Event(), []

        def work():
            while not over.is_set():
                for picture, action in zip(pictures, wanted, strict=True):
                    begin = time.monotonic()
                    np.testing.assert_array_equal(robot.infer(picture)['actions'][0], action)
                    waits.append(time.monotonic() - begin)
                    time.sleep(0.02)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            ends = asyncio.run(
                malformed.storm(
                    server.port, range(CASES), seed=0, message_bytes=2**20, patience=1.0
                )
            )
        finally:
            over.set()
            thread.join()
        assert sum(ends.values()) == CASES and ends['refused'] > 0.8 * CASES
        assert 'answered' not in ends and ends['left'] > 5
        assert len(waits) >= 24 and max(waits) < 2
        assert server.server.service.accepted == 0


def test_the_cases_are_of_every_kind():
    names = {malformed.case(number, 0, 1000).name for number in range(2000)}
    assert len(names) > 70
