"""Someone plays on the page of `serve --demo`, in a headless Chromium on this machine.

    python -m rt2_jax.benchmarks.play --output=FILE.json [--workdir=DIR] [--minutes=30]

Scene after scene the first instruction is typed and entered, and a question asked. `ours` is the frames
shown a second while the robot moves; `first_movement_ms`, from pressing Enter to the first frame that
it moves in; `memory`, of the server, sampled each second; `console`, what the browser's console said.
"""

from __future__ import annotations

import os
import pathlib
import statistics
import tempfile
import threading
import time
from typing import Any

from absl import app, flags, logging
import psutil

from rt2_jax import command
from rt2_jax.benchmarks import browser, harness
from rt2_jax.evaluation import report

FLAGS = flags.FLAGS

# Notes the times of what the page shows.
_WATCH = """
window.entered = 0; window.frames = []; window.ends = []; window.answers = 0;
document.getElementById('instruction').addEventListener('keydown', () => {
  window.entered = performance.now(); window.frames = [];
});
for (const [kind, note] of [['frame', () => window.frames.push(performance.now())],
                            ['end', m => window.ends.push(m.success)], ['answer', () => window.answers++]]) {
  const handle = handlers[kind];
  handlers[kind] = m => { handle(m); note(m); };
}
"""


def play(tab: browser.Tab, seconds: float) -> dict[str, Any]:
    """Plays for some seconds; the figures but for the memory."""
    rates: list[float] = []
    waits: list[float] = []
    end = time.monotonic() + seconds
    episodes = 0
    while not episodes or time.monotonic() < end:
        tab.wait("ready && document.getElementById('offered').children.length > 0", 600)
        tab.type(
            '#instruction', tab.run("document.getElementById('offered').firstChild.textContent")
        )
        tab.press('Enter')
        episodes += 1
        tab.wait(f'ends.length == {episodes}', 120)
        times = tab.run('frames.map(time => time - entered)')
        if len(times) > 1:
            waits.append(times[0])
            rates.append(1000 * (len(times) - 1) / (times[-1] - times[0]))
        tab.type('#question', tab.run("document.getElementById('question').placeholder"))
        tab.press('Enter')
        tab.wait(f'answers == {episodes}', 60)
        tab.run("document.getElementById('next').click()")
        time.sleep(0.5)
    ends = tab.run('ends')
    return {
        'ours': round(statistics.mean(rates), 1),
        'unit': 'frames/s',
        'first_movement_ms': report.percentiles(waits),
        'episodes': episodes,
        'succeeded': sum(map(bool, ends)),
        'console': tab.complaints,
    }


def measure() -> dict[str, Any]:
    """Serves, opens the page and plays."""
    samples: list[int] = []
    over = threading.Event()

    def sample(process: psutil.Process) -> None:
        while not over.wait(1):
            samples.append(process.memory_info().rss)

    with (
        harness.served(FLAGS.workdir, '--demo') as (port, process),
        tempfile.TemporaryDirectory() as profile,
        browser.browser(pathlib.Path(profile)) as chromium,
    ):
        tab = chromium.tab()
        tab.open(f'http://127.0.0.1:{port}/demo')
        tab.run(_WATCH)
        sampling = threading.Thread(target=sample, args=[psutil.Process(process.pid)])
        sampling.start()
        try:
            figures = play(tab, 60 * FLAGS.minutes)
        finally:
            over.set()
            sampling.join()
    return figures | {'memory': harness.growth(samples)}


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('output', None, 'Where the figures go (JSON).')
    flags.DEFINE_string('workdir', 'package:tabletop_pretrained', 'Checkpoint directory.')
    flags.DEFINE_float('minutes', 1.0, 'For how long.', lower_bound=0.01)
    flags.mark_flag_as_required('output')


def main(_: list[str]) -> None:
    """Plays, and writes the figures."""
    if not browser.PROGRAM:
        raise app.UsageError(browser.WITHOUT)
    logging.set_verbosity(logging.INFO)
    harness.publish(
        measure(),
        FLAGS.output,
        workdir=FLAGS.workdir,
        minutes=FLAGS.minutes,
        load_average=os.getloadavg()[0],
    )


if __name__ == '__main__':
    define_flags()
    command.run('play', main)
