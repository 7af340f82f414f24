"""Workers take turns: who has none does nothing, its own processes neither."""

import os
import sys
import time

from rt2_jax.benchmarks import harness

# A worker whose own process writes on and on, and who gives no batches.
_WORKER = """
import subprocess, sys
writing = 'import sys, time\\nwhile True: print(end="x", flush=True); time.sleep(0.002)'
with open(sys.argv[1], 'wb') as file:
    child = subprocess.Popen([sys.executable, '-c', writing], stdout=file)
    print('{}', flush=True)
    for question in sys.stdin:
        print('{}', flush=True)
    child.kill()
"""


def test_between_turns_a_workers_own_processes_are_frozen_too(tmp_path):
    written = tmp_path / 'written'
    command = [sys.executable, '-c', _WORKER, str(written)]
    with harness.Worker(command, sorted(os.sched_getaffinity(0))) as worker:
        time.sleep(0.2)
        frozen = written.stat().st_size
        time.sleep(0.2)
        assert written.stat().st_size == frozen
        until = time.monotonic() + 20
        while written.stat().st_size == frozen and time.monotonic() < until:
            worker.turn()
        assert written.stat().st_size > frozen
