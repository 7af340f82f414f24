"""Training.

    python -m rt2_jax.train --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...]

The same command again goes on from the last checkpoint, to the bit. SIGTERM and Ctrl-C save and exit
with 75; 0 means that all steps are done (rt2_jax/exit_codes.py has all codes).
"""

from collections.abc import Callable
import contextlib
import dataclasses
import sys
import time
import traceback
from typing import Any

from absl import app, flags, logging
from etils import epath
import jax
import jax.numpy as jnp
import numpy as np

from rt2_jax import command, configuration, exit_codes, paths
from rt2_jax.checkpoints import assets, checkpoint, loading, workdir_lock
from rt2_jax.data import cards, pipeline
from rt2_jax.data.sources import INDEXES
from rt2_jax.errors import UserError
from rt2_jax.parallel import distributed, mesh as mesh_lib, topology
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import (
    metrics,
    optimizer as optimizer_lib,
    program as program_lib,
    shares,
    state as state_lib,
    step as step_lib,
    stopping,
    validation as validation_lib,
)

FLAGS = flags.FLAGS
PROFILED = 5  # steps of a trace


class LossNotFinite(UserError, FloatingPointError):
    """The loss or its gradient is not a number any more."""


def train(config: Any, workdir: epath.Path) -> bool:
    """Trains until `config.total_steps`, from where the directory's run is.

    Returns:
        Whether all steps are done; False if SIGTERM or Ctrl-C stopped it early, with all saved.

    Raises:
        checkpoint.CheckpointError: the directory holds a run of another config, or a damaged one.
        pipeline.StateMismatch: the data are not those that the run began with.
        errors.DataSetError, errors.IndexMismatch: a data set cannot be read as it is.
        holdouts.Leakage: an episode or a record is held out and trained on.
        tfrecord.CorruptRecord: a damaged record, unless config.data.on_corrupt is 'skip'.
        LossNotFinite: the loss or its gradient is not a number any more.
        save_failures.SaveFailed, paths.PathError: the directory cannot be written to.
        workdir_lock.WorkdirInUse: another run is in this directory.
        configuration.ConfigError: a field that no config has, or a number that can't be.
        errors.CardError: config.embodiment names no card.
        ValueError: something else in the config that cannot be.
    """
    configuration.check(config)
    cards.find(config.embodiment)
    checkpoint.check_workdir(workdir)
    assets.check_not_inside(workdir)
    with workdir_lock.hold(workdir) as lock, stopping.on_signal() as stop:

        def stops(step: int) -> bool:
            if lock:
                lock.check()
            return stop(step)

        return _train(config, workdir, stops)


def _train(config: Any, workdir: epath.Path, stop: Callable[[int], bool]) -> bool:
    _compile_cache(config, workdir)
    mesh = mesh_lib.make_mesh(config.mesh)
    tokenizer = Tokenizer.load(config.tokenizer) if config.tokenizer else Tokenizer.load_default()
    if (workdir / 'config.json').exists():
        assets.check_same_config(workdir, config)
    indexes = workdir / INDEXES
    batches, spaces = program_lib.open_batches(config, tokenizer, mesh, indexes)
    program = program_lib.build(config, mesh, tokenizer, batches.sources, batches.kinds, spaces)
    validation = None
    if config.validation.every:
        validation = validation_lib.Validation(
            config, program, tokenizer, batches.datasets, indexes
        )

    checkpoints = checkpoint.Checkpoints(workdir, keep=config.keep)
    start = checkpoints.latest() or 0
    if start > config.total_steps:
        raise checkpoint.CheckpointError(
            f'{workdir} has done {start} steps already, more than config.total_steps='
            f'{config.total_steps}: raise it, or take another --workdir'
        )
    if start:
        state, accumulated, position = checkpoints.restore(
            start, program.state, program.accumulated
        )
        batches.set_state(position)
        say(f'resumed at step {start} of {config.total_steps}')
    else:
        params = (
            loading.initial_params(config.init_from, config.init_parts, tokenizer)
            if config.init_from
            else None
        )
        state, accumulated = program.init(params), program.zeros()
    if distributed.is_leader():
        assets.write_assets(workdir, config, tokenizer, spaces)
    say(
        f'{state_lib.count_parameters(state.params) / 1e6:.2f} M parameters, '
        f'mesh {dict(mesh.shape)}, {jax.devices()[0].device_kind}'
    )

    begin = time.perf_counter()
    traced = program.trace()
    flops = program.model_flops(traced)
    compiled = traced.lower().compile()
    chip, dtype = topology.chip_of(jax.devices()[0]), jnp.dtype(config.model.dtype)
    peak = jax.device_count() * (chip.device_flops if chip else metrics.matmul_peak(dtype))
    say(
        f'compiled in {time.perf_counter() - begin:.1f} s: {flops / 1e9:.2f} GFLOP a step; '
        f'{"at their peak the chips do" if chip else "a plain matmul reaches"} '
        f'{peak / 1e9:.0f} GFLOP/s'
    )
    writer = (
        metrics.Writer(workdir, start, config.wandb_project) if distributed.is_leader() else None
    )
    run = _Run(
        config=config,
        checkpoints=checkpoints,
        batches=batches,
        writer=writer,
        zeros=program.zeros,
        flops=flops,
        peak=peak,
        stop=stop,
        spaces=spaces,
        validation=validation,
        examples=metrics.ExampleLog(workdir, start) if config.log_examples else None,
    )
    return run.loop(compiled, state, accumulated, start)


@dataclasses.dataclass
class _Run:
    """The loop and what it talks to."""

    config: Any
    checkpoints: checkpoint.Checkpoints
    batches: pipeline.BatchIterator
    writer: metrics.Writer | None
    zeros: Callable[[], step_lib.Accumulated]
    flops: float
    peak: float
    stop: Callable[[int], bool]
    spaces: dict[str, ActionSpace]
    validation: validation_lib.Validation | None
    examples: metrics.ExampleLog | None

    def __post_init__(self):
        self.schedule = jax.jit(
            optimizer_lib.make_schedule(self.config.optimizer, self.config.total_steps)
        )
        self.trace: paths.Mirror | None = None

    def loop(self, step_function: Callable, state: Any, accumulated: Any, start: int) -> bool:
        """Steps from `start` to the end (True) or a signal (False); saves are always finished."""
        try:
            return self._loop(step_function, state, accumulated, start)
        finally:
            # Each of them is closed, whatever the others raise.
            with contextlib.ExitStack() as stack:
                for log in filter(None, (self.writer, self.examples)):
                    stack.callback(log.close)
                stack.callback(self.batches.close)
                stack.callback(self.checkpoints.close)
                stack.callback(self._end_trace)

    def _loop(self, step_function, state, accumulated, start: int) -> bool:
        config, clock, logged, saved = self.config, metrics.Clock(), start, start
        pending: list[jax.Array] = []
        for step in range(start + 1, config.total_steps + 1):
            if self.stop(step):
                if saved != step - 1:
                    self._save(state, accumulated, step - 1)
                self.checkpoints.wait()
                say(
                    f'stopped by a signal at step {step - 1}, which is saved; '
                    'the same command goes on from it'
                    if step > 1
                    else 'stopped by a signal before the first step; the same command begins anew'
                )
                return False
            self._profile(step, pending)
            before = time.perf_counter()
            batch = next(self.batches)
            if not pending or pending[-1].is_ready():
                clock.wait += time.perf_counter() - before
            if self.examples:
                self.examples.write(step, batch['index'])
            state, accumulated, loss = step_function(state, accumulated, batch)
            self.checkpoints.check()
            pending.append(loss)
            if len(pending) > 2:
                # Bounds how far the host runs ahead; two steps stay under way, so the device never
                # waits for it.
                pending.pop(0).block_until_ready()
            if step == start + 1:
                # The first step warms up, and does not count in the rates.
                loss.block_until_ready()
                clock.reset()
                logged = step
            validated = self._validate(step, state, clock)
            if step % config.log_every == 0 or step == config.total_steps:
                self._log(step, accumulated, clock, step - logged, validated)
                accumulated, logged = self.zeros(), step
                clock.reset()
            elif validated and self.writer:
                self.writer.write(step, validated)
            if step % config.checkpoint_every == 0 or step == config.total_steps:
                # Before the next batch is taken, so that the position in the data is that of the
                # state.
                before = time.perf_counter()
                self._save(state, accumulated, step)
                clock.pause += time.perf_counter() - before
                saved = step
        self.checkpoints.wait()
        say(f'done: {config.total_steps} steps in {self.checkpoints.directory.parent}')
        return True

    def _validate(self, step: int, state, clock: metrics.Clock) -> dict[str, float]:
        due = self.validation and (
            step % self.config.validation.every == 0 or step == self.config.total_steps
        )
        if not due:
            return {}
        before = time.perf_counter()
        values = self.validation(state.params)
        clock.pause += time.perf_counter() - before
        say(f'step {step}/{self.config.total_steps}  {validation_lib.line(values)}')
        return values

    def _profile(self, step: int, pending: list[jax.Array]) -> None:
        first = self.config.profile
        if first and step in (first, first + PROFILED):
            jax.block_until_ready(pending)
            if step == first:
                self.trace = paths.Mirror(self.checkpoints.directory.parent / 'profile')
                jax.profiler.start_trace(str(self.trace.local))
            else:
                self._end_trace()

    def _end_trace(self) -> None:
        if self.trace:
            trace, self.trace = self.trace, None
            jax.profiler.stop_trace()
            trace.close()
            say(f'up to {PROFILED} steps from {self.config.profile} on are in the folder profile')

    def _save(self, state, accumulated, step: int) -> None:
        self._check_finite(jax.device_get(accumulated), step)
        for log in filter(None, (self.writer, self.examples)):
            log.flush()
        self.checkpoints.save(state, accumulated, self.batches.get_state(), step)

    def _check_finite(self, sums: step_lib.Accumulated, step: int) -> None:
        if not (np.isfinite(sums.loss) and np.isfinite(sums.gradient_norm)):
            self.checkpoints.wait()
            good = (
                f'the last good checkpoint is of step {self.checkpoints.good}'
                if self.checkpoints.good
                else 'there is no checkpoint before it'
            )
            raise LossNotFinite(
                f'the loss or its gradient is not finite (seen at step {step}; {good}, in '
                f'{self.checkpoints.directory}); '
                'lower config.optimizer.lr, lengthen config.optimizer.warmup, or look at the data'
            )

    def _log(
        self, step: int, accumulated, clock: metrics.Clock, steps: int, more: dict[str, float]
    ) -> None:
        sums = jax.device_get(accumulated)
        self._check_finite(sums, step)
        if not self.writer:
            return
        config, names = self.config, (self.batches.sources, self.batches.kinds)
        values = step_lib.summary(sums, *names, self.spaces) | {
            'lr': float(self.schedule(step - 1))
        }
        begin = step - int(sums.steps)
        values |= shares.realised(self.batches, begin, step, sums.source.examples) | more
        rates = clock.report(steps, config.batch_size, self.flops, self.peak) if steps else {}
        self.writer.write(step, values | {f'speed/{name}': value for name, value in rates.items()})
        parts = ' '.join(
            f'{name} {values[f"source/{name}/loss"]:.3f} '
            f'({100 * values[f"source/{name}/accuracy"]:.1f} %)'
            for name in self.batches.sources
            if f'source/{name}/loss' in values
        )
        speed = ''
        if rates:
            left = (config.total_steps - step) / rates['steps_per_second']
            speed = (
                f'{rates["steps_per_second"]:.2f} steps/s, '
                f'{rates["examples_per_second"]:.0f} examples/s, '
                f'data wait {100 * rates["data_wait"]:.1f} %, MFU {100 * rates["mfu"]:.0f} %, '
                f'{metrics.span(left)} left'
            )
        say(f'step {step}/{config.total_steps}  loss {values["loss"]:.4f}  {parts}  {speed}')


def say(line: str) -> None:
    """Prints a line of progress, on process 0."""
    if distributed.is_leader():
        print(line, flush=True)


def _compile_cache(config: Any, workdir: epath.Path) -> None:
    if config.compile_cache == 'none':
        return
    jax.config.update(
        'jax_compilation_cache_dir',
        str(paths.of(config.compile_cache or workdir / 'compile_cache')),
    )
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('workdir', None, 'Directory of the run: metrics, checkpoints, config.')
    flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(
            f'unknown arguments {argv[1:]}; fields of the config are set by --config.KEY=VALUE'
        )
    logging.set_verbosity(logging.WARNING)
    try:
        distributed.initialize()
        done = train(FLAGS.config, paths.of(FLAGS.workdir))
    except jax.errors.JaxRuntimeError as error:
        traceback.print_exc()
        sys.exit(exit_codes.of_runtime_error(error))
    if not done:
        sys.exit(exit_codes.STOPPED)


if __name__ == '__main__':
    define_flags()
    command.run('train', main, flags_parser=configuration.parse_flags)
