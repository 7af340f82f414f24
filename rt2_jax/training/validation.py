"""The loss on held-out examples during training, by source."""

from collections.abc import Mapping
import dataclasses
from typing import Any

from etils import epath
import jax

from rt2_jax.data import pipeline, schedules, sources as sources_lib
from rt2_jax.data.data_config import DataConfig
from rt2_jax.parallel import sharding
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program as program_lib, step as step_lib


class Validation:
    """Goes through the same few batches each time that it is called; every source has an equal part.

    Frames are shown as a policy sees them. A batch is as large as a part of the training batch that
    is computed at a time.

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
    ):
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
        names = self._batches.sources, self._batches.kinds
        self._spaces = program_lib.action_spaces(opened)
        tables = program_lib.action_tables(tokenizer, *names, self._spaces)
        everywhere = sharding.replicated(program.mesh)
        step = step_lib.make_eval_step(program.model, tables)

        def placed(*arguments):
            with sharding.rules(program.mesh):
                return step(*arguments)

        self._step = jax.jit(placed, donate_argnums=1, out_shardings=everywhere)
        self._zeros = jax.jit(
            lambda: step_lib.Accumulated.zeros(
                *map(len, names), tables.dimensions if tables else 0
            ),
            out_shardings=everywhere,
        )

    def __call__(self, params: Any) -> dict[str, float]:
        """As `step.summary`, each name after 'validation/'."""
        self._batches.set_state(self._start)
        sums = self._zeros()
        for batch in self._batches:
            sums = self._step(params, sums, batch)
        names = self._batches.sources, self._batches.kinds
        values = step_lib.summary(jax.device_get(sums), *names, self._spaces)
        values.pop('gradient_norm')
        return {f'validation/{name}': value for name, value in values.items()}


def line(values: Mapping[str, float]) -> str:
    """What a validation found, for people."""
    sources = (name.split('/') for name in values)
    parts = ' '.join(
        f'{parts[2]} {values["/".join(parts)]:.3f}'
        for parts in sources
        if parts[1:2] == ['source'] and parts[3] == 'loss'
    )
    return f'validation loss {values["validation/loss"]:.4f}  {parts}'
