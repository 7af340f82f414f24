"""Training.

    python -m rt2_jax.train --config=FILE[:ARG] --workdir=DIR [--config.KEY=VALUE ...]

The same command again goes on from the last checkpoint, to the bit. SIGTERM and Ctrl-C save and exit
with 75; 0 means that all steps are done (rt2_jax/exit_codes.py has all codes).
"""

import contextlib
import sys
import time
import traceback
from typing import Any

from absl import app, flags, logging
from etils import epath
import jax
import jax.numpy as jnp

from rt2_jax import command, configuration, exit_codes, paths
from rt2_jax.checkpoints import assets, checkpoint, init_from, workdir_lock
from rt2_jax.data import cards
from rt2_jax.data.sources import INDEXES
from rt2_jax.models import backbone
from rt2_jax.parallel import compilation, distributed, huge_pages, mesh as mesh_lib, topology
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import (
    flops as flops_lib,
    hooks,
    program as program_lib,
    stopping,
    train_state as state_lib,
)
from rt2_jax.training.validation import Validation

FLAGS = flags.FLAGS


def train(config: Any, workdir: epath.Path) -> bool:
    """Trains until `config.total_steps`, from where the directory's run is.

    Args:
        config: of the run, see `configuration.defaults`.
        workdir: the run's directory, in a folder or a bucket.

    Returns:
        Whether all steps are done; False if SIGTERM or Ctrl-C stopped it early, with all saved.

    Raises:
        checkpoint.CheckpointError: the directory holds a run of another config, or a damaged one.
        pipeline.StateMismatch: the data are not those that the run began with.
        errors.DataSetError, errors.IndexMismatch: a data set cannot be read as it is.
        holdouts.Leakage: an episode or a record is held out and trained on.
        tfrecord.CorruptRecord: a damaged record, unless config.data.on_corrupt is 'skip'.
        hooks.LossNotFinite: the loss or its gradient is not a number any more.
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
    with contextlib.ExitStack() as stack:  # closes everything, however the run ends
        lock = stack.enter_context(workdir_lock.hold(workdir))
        stop = stack.enter_context(stopping.on_signal())

        # Mesh and data.
        if config.compile_cache != 'none':
            compilation.use_cache(paths.of(config.compile_cache or workdir / 'compile_cache'))
        mesh = mesh_lib.make_mesh(config.mesh)
        tokenizer = (
            Tokenizer.load(config.tokenizer) if config.tokenizer else Tokenizer.load_default()
        )
        # Refuses an unknown field of the model before any data are opened.
        backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids.tolist())
        if (workdir / 'config.json').exists():
            assets.check_same_config(workdir, config)
        batches, spaces = program_lib.open_batches(config, tokenizer, mesh, workdir / INDEXES)
        stack.callback(batches.close)

        # Program and state: a checkpoint's, or the beginning.
        program = program_lib.build(
            config, mesh, tokenizer, batches.sources, batches.kinds, batches.acting_kinds, spaces
        )
        validation = (
            Validation(config, program, tokenizer, batches.datasets, workdir / INDEXES)
            if config.validation.every
            else None
        )
        checkpoints = checkpoint.Checkpoints(workdir, keep=config.keep)
        stack.callback(checkpoints.close)
        start = checkpoints.latest() or 0
        if start > config.total_steps:
            raise checkpoint.CheckpointError(
                f'{workdir} has done {start} steps already, more than config.total_steps='
                f'{config.total_steps}: raise it, or take another --workdir'
            )
        if start:
            state, position = checkpoints.restore(start, program.state)
            batches.set_state(position)
            distributed.say(f'resumed at step {start} of {config.total_steps}')
        else:
            params = init_from.initial_params(config.init_from, config.init_parts, tokenizer)
            state = program.init(params)
        if distributed.is_leader():
            states = program_lib.state_spaces(batches.datasets)
            assets.write_assets(workdir, config, tokenizer, spaces, states)
        distributed.say(
            f'{state_lib.count_parameters(state.params) / 1e6:.2f} M parameters, '
            f'mesh {dict(mesh.shape)}, {jax.devices()[0].device_kind}'
        )

        # Compile.
        begin = time.perf_counter()
        traced = program.trace()
        flops = program.model_flops(traced)
        update = traced.lower().compile()
        chip, dtype = topology.chip_of(jax.devices()[0]), jnp.dtype(config.model.dtype)
        peak = jax.device_count() * (chip.device_flops if chip else flops_lib.matmul_peak(dtype))
        distributed.say(
            f'compiled in {time.perf_counter() - begin:.1f} s: {flops / 1e9:.2f} GFLOP a step; '
            f'{"at their peak the chips do" if chip else "a plain matmul reaches"} '
            f'{peak / 1e9:.0f} GFLOP/s'
        )

        # Loop.
        log = hooks.Log(
            config, workdir, start, batches, spaces, checkpoints, flops=flops, peak=peak
        )
        stack.callback(log.close)
        save = hooks.Save(checkpoints, batches, log, start)
        profile = hooks.Profile(workdir, config.profile)
        stack.callback(profile.close)
        step = start
        while step < config.total_steps and not stop(step + 1):
            lock.check()
            step += 1
            last = step == config.total_steps
            profile(step, log.running)
            batch = log.next_batch()
            state, sums = update(state, batch)
            checkpoints.check()
            log.add(step, batch, sums)

            scores = {}
            if validation and (step % config.validation.every == 0 or last):
                with log.paused():
                    scores = validation(state.params)
                distributed.say(f'step {step}/{config.total_steps}  {validation.line(scores)}')
            # A save is a log point, so that no sum has to be saved.
            saves = step % config.checkpoint_every == 0 or last
            if step % config.log_every == 0 or saves:
                log.write(step, scores)
            elif scores:
                log.write_only(step, scores)
            if saves:
                save(state, step)

        if step < config.total_steps:  # stopped by a signal
            lock.check()
            log.write(step)
            save(state, step)
        checkpoints.wait()
        if step == config.total_steps:
            distributed.say(f'done: {config.total_steps} steps in {workdir}')
        elif step:
            distributed.say(
                f'stopped by a signal at step {step}, which is saved; '
                'the same command goes on from it'
            )
        else:
            distributed.say(
                'stopped by a signal before the first step; the same command begins anew'
            )
        return step == config.total_steps


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('workdir', None, 'Directory of the run: metrics, checkpoints, config.')
    flags.mark_flags_as_required(['config', 'workdir'])


def main(argv: list[str]) -> None:
    """Runs the command; the process ends with the code of `exit_codes`."""
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
    huge_pages.restart()
    define_flags()
    command.run('train', main, flags_parser=configuration.parse_flags)
