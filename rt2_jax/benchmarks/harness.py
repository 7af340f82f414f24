"""What the benchmarks share: workers that take turns, medians of calls, memory, and the report.

A worker is a process of its own, and one at a time runs. While the others have their turn a worker is
frozen, its own processes and its buffers with it, so what it hands out in a turn was made in that turn, and a
neighbour on the machine slows all alike. Linux only. Workers may run in another interpreter, so only the
standard library is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
import contextlib
import dataclasses
import importlib
import itertools
import json
import os
import pathlib
import queue
import re
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
FIGURES = ('ours', 'peer', 'limit', 'ratio_peer', 'ratio_limit')


@dataclasses.dataclass
class Stream:
    """What a worker measures.

    Attributes:
        batches: endless.
        labels: of a batch, something hashable for each row, which tells episodes apart.
        state_bytes: size of what must be saved to go on from here.
        imported: time.time() when all libraries were imported; None if the module imports them.
    """

    batches: Iterator[Any]
    labels: Callable[[Any], Sequence[Any]] = lambda batch: batch
    state_bytes: Callable[[], int] = lambda: 0
    imported: float | None = None


def worker_command(function: str, python: str = sys.executable, **arguments: Any) -> list[str]:
    """The command line of a worker.

    Args:
        function: 'NAME:FUNCTION' of a module here; it returns a `Stream`.
        python: the interpreter.
        **arguments: of the function; JSON.
    """
    return [python, '-m', 'rt2_jax.benchmarks.harness', function, json.dumps(arguments)]


class Worker:
    """A worker's process. Frozen but for its turns.

    Args:
        command: what to run; see `worker_command`.
        cores: the cores that it may use.

    Attributes:
        about: start_seconds, until its libraries were imported, and first_batch_seconds from then on.

    Raises:
        RuntimeError: the process ended; the message has its last words.
    """

    def __init__(self, command: Sequence[str], cores: Sequence[int]) -> None:
        self._command = list(command)
        self._errors = tempfile.TemporaryFile('w+')
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get('PYTHONPATH', '')]))
        environment = {'XLA_PYTHON_CLIENT_PREALLOCATE': 'false'} | os.environ  # a device is shared
        environment |= {'WORKER_BEGIN': str(time.time()), 'PYTHONPATH': path}
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, cores)  # a child has its parent's, from its first instruction
        try:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._errors,
                text=True,
                env=environment,
                process_group=0,  # its own processes are frozen with it
            )
        finally:
            os.sched_setaffinity(0, before)
        assert self._process.stdin and self._process.stdout
        self._questions, self._answers = self._process.stdin, self._process.stdout
        self.about = self._read()
        self._signal(signal.SIGSTOP)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._signal(signal.SIGCONT)
        self._questions.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._signal(signal.SIGKILL)
            self._process.wait()
        self._answers.close()
        self._errors.close()

    def turn(self, *, seconds: float = 0.0, least: int = 1, pause: float = 0.0) -> dict[str, Any]:
        """Lets it draw batches.

        Args:
            seconds: for how long, to the end of a batch.
            least: how many at least.
            pause: seconds that it sleeps after each.

        Returns:
            steps, seconds, cpu_seconds (of all its threads), distinct (labels a batch, on average).
        """
        return self._ask({'seconds': seconds, 'least': least, 'pause': pause})

    def state(self) -> dict[str, Any]:
        """state_bytes and state_seconds: how large its state is, and how long saving it took."""
        return self._ask('state')

    def memory(self, field: str = 'VmHWM') -> int:
        """Bytes of resident memory: at most so far (VmHWM) or now (VmRSS)."""
        return memory(self._process.pid)[field]

    def shared_memory(self) -> int:
        """Bytes of the worker and its processes now, each page they share counted once."""
        import psutil

        process = psutil.Process(self._process.pid)
        family = [process, *process.children(recursive=True)]
        return sum(member.memory_full_info().pss for member in family)

    def _ask(self, question: Any) -> dict[str, Any]:
        self._signal(signal.SIGCONT)
        self._questions.write(json.dumps(question) + '\n')
        self._questions.flush()
        answer = self._read()
        self._signal(signal.SIGSTOP)
        return answer

    def _signal(self, number: signal.Signals) -> None:
        """To the worker and its own processes, of which none may be left."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _read(self) -> dict[str, Any]:
        for line in self._answers:
            if line.startswith('{'):
                return json.loads(line)
        self._process.wait()
        self._errors.seek(0)
        raise RuntimeError(
            f'a worker ended with status {self._process.returncode}: {" ".join(self._command)}\n'
            + self._errors.read()[-4000:]
        )


def take_turns(
    commands: Mapping[str, Sequence[str]],
    cores: Sequence[int],
    *,
    rounds: int,
    seconds: float,
    least: int = 1,
    before_round: Callable[[], None] = lambda: None,
) -> dict[str, dict[str, Any]]:
    """Measures workers in turns.

    Args:
        commands: by part.
        cores: that each may use.
        rounds: turns of each, after half a turn that does not count.
        seconds: a turn.
        least: batches a turn.
        before_round: called before each round and before each worker starts.

    Returns:
        By part: rows per_second (the best turn's), all turns', CPU microseconds a row, distinct labels
        a batch, peak memory, seconds to start and to the first batch, bytes of resume state.
    """
    workers: dict[str, Worker] = {}
    try:
        for part, command in commands.items():
            before_round()
            workers[part] = Worker(command, cores)
            workers[part].turn(seconds=seconds / 2)
        taken: dict[str, list[dict[str, Any]]] = {part: [] for part in workers}
        for _ in range(rounds):
            before_round()
            for part, worker in workers.items():
                taken[part].append(worker.turn(seconds=seconds, least=least))
        return {part: _summary(worker, taken[part]) for part, worker in workers.items()}
    finally:
        for worker in workers.values():
            worker.__exit__()


def _summary(worker: Worker, turns: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    rates = [turn['steps'] / turn['seconds'] for turn in turns]
    cpu = min(1e6 * turn['cpu_seconds'] / turn['steps'] for turn in turns)
    return {
        'per_second': round(max(rates), 4),
        'turns': [round(rate, 4) for rate in rates],
        'cpu_microseconds': round(cpu, 1),
        'distinct': round(statistics.mean(turn['distinct'] for turn in turns), 1),
        'peak_bytes': worker.memory(),
        'shared_bytes': worker.shared_memory(),
        **worker.about,
        **worker.state(),
    }


@contextlib.contextmanager
def served(workdir: str, *arguments: str) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """A server process (rt2_jax.serve) that is ready: yields its port and its process.

    Raises:
        RuntimeError: it ended before it was ready, or with another code than 0.
    """
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    line = [sys.executable, '-m', 'rt2_jax.serve', f'--workdir={workdir}', f'--port={port}']
    with subprocess.Popen(
        [*line, *arguments], stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            while process.poll() is None:
                with contextlib.suppress(OSError):  # not there yet, or warming up
                    urllib.request.urlopen(f'http://127.0.0.1:{port}/healthz', timeout=5).close()
                    break
                time.sleep(0.2)
            else:
                raise RuntimeError(f'{" ".join(line)} ended with {process.returncode}')
            yield port, process
        finally:
            process.terminate()
            code = process.wait(60)
        if code:
            raise RuntimeError(f'{" ".join(line)} ended with {code}')


def in_threads(work: Callable[[int], Any], batch_size: int, run: int = 16) -> Iterator[range]:
    """Batches of rows on which one thread a core did nothing but `work(number of the row)`; endless.

    Args:
        work: what is done, its result thrown away.
        batch_size: rows a batch.
        run: rows that a thread does before it reports them.
    """
    threads = len(os.sched_getaffinity(0))
    done: queue.Queue[int] = queue.Queue(maxsize=2 * batch_size // run)

    def rows(offset: int) -> None:
        for start in itertools.count(offset * run, threads * run):
            for row in range(start, start + run):
                work(row)
            done.put(run)

    for offset in range(threads):
        threading.Thread(target=rows, args=(offset,), daemon=True).start()
    ready = 0
    while True:
        while ready < batch_size:
            ready += done.get()
        ready -= batch_size
        yield range(batch_size)


def missing(modules: str, python: str = sys.executable) -> str:
    """Why an interpreter can't import `modules` ('a, b'); '' if it can."""
    done = subprocess.run([python, '-c', f'import {modules}'], capture_output=True, text=True)
    return '' if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


def memory(process: int | str = 'self') -> dict[str, int]:
    """Bytes of a process by kind: resident now (VmRSS, RssAnon, RssFile), at most so far (VmHWM)."""
    status = pathlib.Path(f'/proc/{process}/status').read_text()
    return {name: 1024 * int(kb) for name, kb in re.findall(r'(Rss\w+|Vm\w+):\s+(\d+) kB', status)}


def fresh_memory() -> dict[str, int]:
    """As `memory` of this process, whose peak is counted anew from now on, proc(5)."""
    pathlib.Path('/proc/self/clear_refs').write_text('5')
    return memory()


def growth(samples: Sequence[int]) -> dict[str, float]:
    """How memory grew: from the second tenth of `samples` (the first is for warming up) to the last."""
    tenth = max(1, len(samples) // 10)
    start, end = statistics.mean(samples[tenth : 2 * tenth]), statistics.mean(samples[-tenth:])
    return {
        'start_bytes': round(start),
        'end_bytes': round(end),
        'growth': round(end / start - 1, 4),
        'highest_bytes': max(samples),
    }


def timed(call: Callable[[], Any], repeats: int, warm_up: int = 3) -> dict[str, float]:
    """Median and 95th percentile of a call's seconds, after some calls that do not count."""
    seconds = []
    for number in range(-warm_up, repeats):
        start = time.perf_counter()
        call()
        if number >= 0:
            seconds.append(time.perf_counter() - start)
    ordered = sorted(seconds)
    at = 0.95 * (repeats - 1)  # linear between neighbours, as numpy.percentile
    low, high = ordered[int(at)], ordered[min(int(at) + 1, repeats - 1)]
    return {
        'seconds': statistics.median(seconds),
        'seconds_p95': low + (at - int(at)) * (high - low),
        'repeats': repeats,
    }


def publish(result: Mapping[str, Any], output: str, **settings: Any) -> None:
    """Prints a result and writes it with its manifest.

    Args:
        result: the figures; those of `FIGURES` that it lacks are null, the ratios are computed.
        output: the JSON file.
        **settings: for the manifest.
    """
    from rt2_jax import paths
    from rt2_jax.manifest import make_manifest

    figures = dict.fromkeys(FIGURES) | dict(result)
    for other in ('peer', 'limit'):
        if figures[f'ratio_{other}'] is None and figures['ours'] and figures[other]:
            figures[f'ratio_{other}'] = round(figures['ours'] / figures[other], 3)
    print(json.dumps(figures, indent=2), flush=True)
    figures['manifest'] = make_manifest(**settings)
    path = paths.of(output)
    path.parent.mkdir(parents=True, exist_ok=True)
    paths.write(path, json.dumps(figures, indent=2).encode())


def _serve(function: str, arguments: str) -> None:
    """Draws batches as told by lines of stdin, until they end."""
    module, _, name = function.partition(':')
    make = getattr(importlib.import_module(f'rt2_jax.benchmarks.{module}'), name)
    imported = time.time()
    stream = make(**json.loads(arguments))
    next(stream.batches)
    imported, begin = stream.imported or imported, float(os.environ['WORKER_BEGIN'])
    _write({'start_seconds': imported - begin, 'first_batch_seconds': time.time() - imported})
    for line in sys.stdin:
        question = json.loads(line)
        if question == 'state':
            start = time.perf_counter()
            size = stream.state_bytes()
            _write({'state_bytes': size, 'state_seconds': time.perf_counter() - start})
        else:
            _write(_draw(stream, **question))
    if hasattr(stream.batches, 'close'):
        stream.batches.close()


def _draw(stream: Stream, *, seconds: float, least: int, pause: float) -> dict[str, Any]:
    rows, distinct = 0, list[int]()
    start, cpu = time.perf_counter(), time.process_time()
    while len(distinct) < least or time.perf_counter() - start < seconds:
        labels = stream.labels(next(stream.batches))
        rows += len(labels)
        distinct.append(len(set(labels)))
        if pause:
            time.sleep(pause)
    return {
        'steps': rows,
        'seconds': time.perf_counter() - start,
        'cpu_seconds': time.process_time() - cpu,
        'distinct': sum(distinct) / len(distinct),
    }


def _write(content: Any) -> None:
    print(json.dumps(content), flush=True)


if __name__ == '__main__':
    _serve(*sys.argv[1:])
