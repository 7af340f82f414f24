"""The loss on held-out examples during training, by source."""

from collections.abc import Mapping
import dataclasses
import functools
from typing import Any

from etils import epath
import jax

from rt2_jax.data import pipeline, schedules, sources as sources_lib
from rt2_jax.data.data_config import DataConfig
from rt2_jax.parallel import sharding
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program as program_lib, step as step_lib
from rt2_jax.training.action_metrics import ActionTables


class Validation:
    """Measures the loss on the same few batches at each call; every source has an equal part.

    Frames are shown as a policy sees them. A batch is as large as one of the `config.accumulate`
    parts of a training batch.

    Args:
        config: the run's config; `config.validation` says how many batches, and of what.
        program: the run's.
        tokenizer: the run's.
        trained: the sources that are trained on, by name.
        indexes: the run's folder for indexes of its data, see `sources.open_validation`.

    Raises:
        holdouts.Leakage: a held-out episode or record is trained on as well.
        ValueError: nothing is held out.
    """

    def __init__(
        self,
        config: Any,
        program: program_lib.Program,
        tokenizer: Tokenizer,
        trained: Mapping[str, Any],
        indexes: epath.PathLike | None = None,
    ) -> None:
        opened = sources_lib.open_validation(config, trained, indexes)
        share = schedules.Schedule(start=len(opened.robot) / len(opened.by_name()))
        data = DataConfig.from_config(config.data)
        self._batches = pipeline.make_iterator(
            opened,
            tokenizer,
            dataclasses.replace(data, robot_share=share),
            batches=config.validation.batches,
            batch_size=config.batch_size // config.accumulate,
            seed=config.seed,
            evaluation=True,
            sharding=sharding.batch_sharding(program.mesh),
        )
        self._start = self._batches.get_state()
        self._spaces = program_lib.action_spaces(opened)
        names = self._batches.sources, self._batches.kinds
        acting = self._batches.acting_kinds
        one_pass = config.get('one_pass', False)
        tables = ActionTables.create(tokenizer, *names, acting, self._spaces, one_pass)
        counts = len(self._batches.sources), len(self._batches.kinds)
        step = step_lib.make_eval_step(program.model, counts, tables)

        def on_mesh(*arguments: Any) -> step_lib.Sums:
            with sharding.rules(program.mesh):
                return step(*arguments)

        self._step = jax.jit(on_mesh, out_shardings=sharding.replicated(program.mesh))

    def __call__(self, params: Any) -> dict[str, float]:
        """The values of `step.summary`, each name after 'validation/'."""
        self._batches.set_state(self._start)
        running = [self._step(params, batch) for batch in self._batches]
        sums = functools.reduce(step_lib.add, running[1:], step_lib.add(None, running[0]))
        names = self._batches.sources, self._batches.kinds
        values = step_lib.summary(sums, *names, self._spaces)
        values.pop('gradient_norm')
        return {f'validation/{name}': value for name, value in values.items()}

    def line(self, values: Mapping[str, float]) -> str:
        """A line for people of what a call returned."""
        parts = ' '.join(
            f'{source} {values[f"validation/source/{source}/loss"]:.3f}'
            for source in self._batches.sources
            if f'validation/source/{source}/loss' in values
        )
        return f'validation loss {values["validation/loss"]:.4f}  {parts}'
