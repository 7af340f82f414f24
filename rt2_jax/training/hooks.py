"""What the training loop calls beside the step: the log, saving, the profiler."""

from collections import deque
from collections.abc import Iterator, Mapping
import contextlib
import time
from typing import Any

from etils import epath
import jax
import numpy as np
import psutil

from rt2_jax import paths
from rt2_jax.data import pipeline
from rt2_jax.errors import UserError
from rt2_jax.parallel import distributed
from rt2_jax.text.actions import ActionSpace
from rt2_jax.training import metrics, optimizer as optimizer_lib, shares, step as step_lib
from rt2_jax.training.train_state import TrainState

STEPS_AHEAD = 2  # that the host may be ahead of the device
PROFILED = 5  # steps of a trace


class LossNotFinite(UserError, FloatingPointError):
    """The loss or its gradient is not a number any more."""


class Clock:
    """Wall time between two log points, and how much of it did not go into steps."""

    def __init__(self) -> None:
        self._process = psutil.Process()
        self._in_steps = 0.0
        self.reset(0)

    def reset(self, step: int) -> None:
        """Starts a new interval after `step`."""
        self._step, self._start = step, time.perf_counter()
        self._waited = self._paused = 0.0

    def add_wait(self, seconds: float) -> None:
        """Adds time in which no step ran for want of a batch."""
        self._waited += seconds

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Saving or validating."""
        begin = time.perf_counter()
        yield
        self._paused += time.perf_counter() - begin

    def report(self, step: int, batch_size: int, flops: float, peak: float) -> dict[str, float]:
        """Rates of the interval that ends with `step`; starts the next one.

        Args:
            step: the last of the interval.
            batch_size: examples a step.
            flops: of a step.
            peak: FLOP/s that the devices can do.

        Returns:
            steps_per_second, examples_per_second, data_wait (share of the wall time in which no
            step ran for want of a batch), goodput (share of the time since the process started that
            was spent in steps: not in starting, compiling, waiting or saving), rss_gb (of this
            process), mfu (FLOP/s over `peak`); empty where no step was timed.
        """
        steps, seconds = step - self._step, time.perf_counter() - self._start
        self._in_steps += seconds - self._waited - self._paused
        waited = self._waited
        self.reset(step)
        if not steps:
            return {}
        return {
            'steps_per_second': steps / seconds,
            'examples_per_second': steps * batch_size / seconds,
            'data_wait': waited / seconds,
            'goodput': self._in_steps / (time.time() - self._process.create_time()),
            'rss_gb': self._process.memory_info().rss / 1e9,
            'mfu': flops * steps / seconds / peak,
        }


class Log:
    """Sums what steps measure, and writes their means at a log point.

    Attributes:
        running: sums of the steps that the host has not waited for.

    Args:
        config: the run's config.
        workdir: where metrics.jsonl, TensorBoard's files and the numbers of the examples go.
        start: the step that the run begins from.
        batches: of the run.
        spaces: action space of each source that has actions, by name.
        checkpoints: of the run; an error names the last good one.
        flops: of a step, of all devices together.
        peak: FLOP/s that all devices together can do.
    """

    def __init__(
        self,
        config: Any,
        workdir: epath.Path,
        start: int,
        batches: pipeline.BatchIterator,
        spaces: Mapping[str, ActionSpace],
        checkpoints: Any,
        *,
        flops: float,
        peak: float,
    ) -> None:
        self._config, self._batches, self._spaces = config, batches, spaces
        self._checkpoints = checkpoints
        self._flops, self._peak = flops, peak
        self._start = self._logged = start
        self.running: deque[step_lib.Sums] = deque()
        self._total: step_lib.Sums | None = None
        self._clock = Clock()
        self._lr = jax.jit(optimizer_lib.make_schedule(config.optimizer, config.total_steps))
        self._writer = (
            metrics.Writer(workdir, start, config.wandb_project)
            if distributed.is_leader()
            else None
        )
        self._examples = metrics.ExampleLog(workdir, start) if config.log_examples else None

    def next_batch(self) -> step_lib.Batch:
        """The next batch; the time counts as waiting for data if no step runs at its end."""
        begin = time.perf_counter()
        batch = next(self._batches)
        if not self.running or _is_ready(self.running[-1]):
            self._clock.add_wait(time.perf_counter() - begin)
        return batch

    def add(self, step: int, batch: step_lib.Batch, sums: step_lib.Sums) -> None:
        """Adds what a step measured; waits until the host is `STEPS_AHEAD` of the device."""
        if self._examples:
            self._examples.write(step, batch['index'])
        self.running.append(sums)
        if step == self._start + 1:
            # The first step warms up, and does not count in the rates.
            jax.block_until_ready(sums)
            self._clock.reset(step)
        if len(self.running) > STEPS_AHEAD:
            self._total = step_lib.add(self._total, self.running.popleft())

    def paused(self) -> contextlib.AbstractContextManager[None]:
        """Time within does not count as steps."""
        return self._clock.paused()

    def write(self, step: int, more: Mapping[str, float] | None = None) -> None:
        """Logs the steps since the last log point: metrics.jsonl, TensorBoard and a line.

        Args:
            step: the last of them.
            more: other values to log at this step.

        Raises:
            LossNotFinite: a loss or a gradient since the last log point is not finite.
        """
        while self.running:
            self._total = step_lib.add(self._total, self.running.popleft())
        if self._total is None:
            return
        sums, self._total = self._total, None
        self._check_finite(sums, step)
        begin, self._logged = self._logged, step
        rates = self._clock.report(step, self._config.batch_size, self._flops, self._peak)
        if not self._writer:
            return
        names = self._batches.sources, self._batches.kinds
        values = step_lib.summary(sums, *names, self._spaces)
        values['lr'] = float(self._lr(step - 1))
        values |= shares.realised(self._batches, begin, step, np.asarray(sums.source.examples))
        values |= more or {}
        self._writer.write(step, values | {f'speed/{name}': x for name, x in rates.items()})
        distributed.say(self._line(step, values, rates))

    def write_only(self, step: int, values: Mapping[str, float]) -> None:
        """Logs values at a step that is no log point."""
        if self._writer:
            self._writer.write(step, values)

    def _check_finite(self, sums: step_lib.Sums, step: int) -> None:
        if np.isfinite(sums.loss) and np.isfinite(sums.gradient_norm):
            return
        self._checkpoints.wait()
        good = self._checkpoints.good
        last = (
            f'the last good checkpoint is of step {good}'
            if good
            else 'there is no checkpoint before it'
        )
        raise LossNotFinite(
            f'the loss or its gradient is not finite (seen at step {step}; {last}, in '
            f'{self._checkpoints.directory}); '
            'lower config.optimizer.lr, lengthen config.optimizer.warmup, or look at the data'
        )

    def _line(self, step: int, values: Mapping[str, float], rates: Mapping[str, float]) -> str:
        total = self._config.total_steps
        by_source = ' '.join(
            f'{name} {values[f"source/{name}/loss"]:.3f} '
            f'({100 * values[f"source/{name}/accuracy"]:.1f} %)'
            for name in self._batches.sources
            if f'source/{name}/loss' in values
        )
        speed = ''
        if rates:
            seconds = (total - step) / rates['steps_per_second']
            speed = (
                f'{rates["steps_per_second"]:.2f} steps/s, '
                f'{rates["examples_per_second"]:.0f} examples/s, '
                f'data wait {100 * rates["data_wait"]:.1f} %, MFU {100 * rates["mfu"]:.0f} %, '
                f'{metrics.span(seconds)} left'
            )
        return f'step {step}/{total}  loss {values["loss"]:.4f}  {by_source}  {speed}'

    def flush(self) -> None:
        """Writes out what is buffered; raises PathError where that fails."""
        for log in (self._writer, self._examples):
            if log:
                log.flush()

    def close(self) -> None:
        """Writes out what is buffered, and closes the files."""
        with contextlib.ExitStack() as stack:
            for log in (self._writer, self._examples):
                if log:
                    stack.callback(log.close)


def _is_ready(sums: step_lib.Sums) -> bool:
    return all(x.is_ready() for x in jax.tree.leaves(sums))


class Save:
    """Saves a step, once.

    Args:
        checkpoints: where to.
        batches: of the run; their position is saved with the state.
        log: flushed before.
        start: the step that the run begins from.
    """

    def __init__(
        self, checkpoints: Any, batches: pipeline.BatchIterator, log: Log, start: int
    ) -> None:
        self._checkpoints, self._batches, self._log = checkpoints, batches, log
        self._saved = start

    def __call__(self, state: TrainState, step: int) -> None:
        """Saves the state after `step` in the background, before the next batch is taken.

        Raises:
            save_failures.SaveFailed: this save or the one before cannot be written.
        """
        if step == self._saved:
            return
        with self._log.paused():
            self._log.flush()
            self._checkpoints.save(state, self._batches.get_state(), step)
        self._saved = step


class Profile:
    """Traces `PROFILED` steps into the workdir's folder `profile`.

    Args:
        workdir: of the run.
        first: the first of the steps; 0 for none.
    """

    def __init__(self, workdir: epath.Path, first: int) -> None:
        self._workdir, self._first = workdir, first
        self._trace: paths.Mirror | None = None

    def __call__(self, step: int, running: Any) -> None:
        """Starts or ends the trace before `step`, when what is `running` is done."""
        if not self._first or step not in (self._first, self._first + PROFILED):
            return
        jax.block_until_ready(list(running))
        if step == self._first:
            self._trace = paths.Mirror(self._workdir / 'profile')
            jax.profiler.start_trace(str(self._trace.local))
        else:
            self.close()

    def close(self) -> None:
        """Ends the trace and writes it out."""
        if self._trace:
            trace, self._trace = self._trace, None
            jax.profiler.stop_trace()
            trace.close()
            distributed.say(
                f'up to {PROFILED} steps from {self._first} on are in the folder profile'
            )
