"""The training program of a config on a mesh: model, optimizer, state and the jitted step."""

from collections.abc import Callable, Sequence
import dataclasses
from typing import Any

from etils import epath
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import numpy as np
import optax

from rt2_jax.data import pipeline, sources as sources_lib
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.mixture import Sources
from rt2_jax.models import backbone
from rt2_jax.parallel import sharding
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import (
    adapters,
    metrics,
    optimizer as optimizer_lib,
    state as state_lib,
    step as step_lib,
)

# Kinds of examples whose answers end with an action.
ACTING_KINDS = ('robot', 'robot_plan')


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What `build` makes.

    Attributes:
        model: the module.
        optimizer: the gradient transformation.
        mesh: where everything lies.
        batch: shapes of a batch, with shardings.
        state: shapes of the state, with shardings.
        accumulated: shapes of the sums between log points, with shardings.
        step: jitted step(state, accumulated, batch) -> (state, accumulated, loss); the first two
            are donated.
        zeros: jitted; returns sums of nothing.
        seed: of the initial parameters.
    """

    model: nn.Module
    optimizer: optax.GradientTransformation
    mesh: Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    state: state_lib.TrainState
    accumulated: step_lib.Accumulated
    step: Callable
    zeros: Callable
    seed: int

    def init(self, params: Any = None) -> state_lib.TrainState:
        """The state to start from; `params` as for `state.init_state`."""
        return state_lib.init_state(
            self.model, self.optimizer, self.batch, self.mesh, self.seed, params
        )

    def trace(self) -> Any:
        """The traced step: `.jaxpr` to count, `.lower().compile()` to run."""
        return self.step.trace(self.state, self.accumulated, self.batch)

    def model_flops(self, traced: Any) -> float:
        """FLOPs of a traced step for MFU: what is computed again to save memory does not count.

        A backward pass has two products for each of the forward pass (PaLM, arXiv 2204.02311,
        appendix B), or fewer where nothing before them learns.
        """
        inputs = (self.batch[name] for name in ('images', 'prompt', 'target'))
        forward = jax.make_jaxpr(self.model.apply)({'params': self.state.params}, *inputs)
        return min(metrics.count_flops(traced.jaxpr), 3 * metrics.count_flops(forward))


def check_batch_size(config: Any, mesh: Mesh) -> None:
    """Raises ValueError, with a size that fits, for a batch that the mesh can't share out evenly."""
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if config.batch_size % (parts * config.accumulate):
        raise ValueError(
            f'config.batch_size={config.batch_size} is not divisible by '
            f'config.accumulate={config.accumulate} times the mesh '
            f'axes data x fsdp = {parts}; take a multiple of {parts * config.accumulate}'
        )


def build(
    config: Any,
    mesh: Mesh,
    tokenizer: Tokenizer,
    sources: Sequence[str],
    kinds: Sequence[str],
    spaces: dict[str, ActionSpace],
) -> Program:
    """Builds the program; nothing is allocated, and `mesh` may be of a topology.

    Args:
        config: the run's config.
        mesh: as `parallel.mesh.make_mesh` makes it.
        tokenizer: of the run.
        sources: names, by the batch's source number.
        kinds: names, by the batch's kind number.
        spaces: action space of each source that has actions, by name.

    Raises:
        ValueError: something in the config that cannot be.
    """
    check_batch_size(config, mesh)
    model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids)
    model = adapters.adapted(model, config)
    learning = config.optimizer.copy_and_resolve_references().unlock()
    if isinstance(model, adapters.Adapted):
        learning.frozen = (f'^(?!{adapters.PART}/)',)
    batch = batch_shapes(config, mesh)
    params = nn.meta.unbox(state_lib.parameter_shapes(model, batch))
    optimizer = optimizer_lib.make_optimizer(learning, config.total_steps, params)
    tables = action_tables(tokenizer, sources, kinds, spaces)

    def zeros():
        dimensions = tables.dimensions if tables else 0
        return step_lib.Accumulated.zeros(len(sources), len(kinds), dimensions)

    everywhere = sharding.replicated(mesh)
    accumulated = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere), jax.eval_shape(zeros)
    )
    state = state_lib.abstract_state(model, optimizer, batch, mesh)
    step = step_lib.make_train_step(
        model,
        optimizer,
        accumulate=config.accumulate,
        tables=tables,
        frozen=optimizer_lib.frozen_names(learning, params),
    )

    def placed(*arguments):
        with sharding.rules(mesh):
            return step(*arguments)

    # Said, not inferred: what comes out of one step goes into the next.
    outs = jax.tree.map(lambda x: x.sharding, (state, accumulated))
    return Program(
        model=model,
        optimizer=optimizer,
        mesh=mesh,
        batch=batch,
        state=state,
        accumulated=accumulated,
        seed=config.seed,
        step=jax.jit(placed, donate_argnums=(0, 1), out_shardings=(*outs, everywhere)),
        zeros=jax.jit(zeros, out_shardings=everywhere),
    )


def open_batches(
    config: Any, tokenizer: Tokenizer, mesh: Mesh, indexes: epath.PathLike | None = None
) -> tuple[pipeline.BatchIterator, dict[str, ActionSpace]]:
    """The run's batches, split over the mesh, and the action space of each source that has one.

    Args:
        config: the run's config.
        tokenizer: of the run.
        mesh: where the batches go.
        indexes: the run's folder for indexes of its data, see `sources.open_sources`.

    Raises:
        ValueError: a batch size that doesn't fit the mesh, before any data are opened; and as
            `sources.open_sources` and `pipeline.make_iterator`.
    """
    check_batch_size(config, mesh)
    data = DataConfig.from_config(config.data)
    opened = sources_lib.open_sources(data, indexes)
    batches = pipeline.make_iterator(
        opened,
        tokenizer,
        data,
        batches=config.total_steps,
        batch_size=config.batch_size,
        seed=config.seed,
        sharding=sharding.batch_sharding(mesh),
    )
    return batches, action_spaces(opened)


def action_spaces(opened: Sources) -> dict[str, ActionSpace]:
    """The action space of each source that has actions, by name."""
    spaces = {n: getattr(source, 'action_space', None) for n, source in opened.by_name().items()}
    return {name: space for name, space in spaces.items() if space is not None}


def batch_shapes(config: Any, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of one batch as the config says them: images uint8 [B,F,H,W,3], prompt [B,P], target
    [B,T] int32, ...
    """
    data, size, where = config.data, config.batch_size, sharding.batch_sharding(mesh)
    shapes = {
        'images': (size, data.frames, data.image_size, data.image_size, 3),
        'prompt': (size, data.prompt_length),
        'target': (size, data.target_length),
        'source': (size,),
        'kind': (size,),
        'index': (size,),
    }
    return {
        name: jax.ShapeDtypeStruct(
            shape, jnp.uint8 if name == 'images' else jnp.int32, sharding=where
        )
        for name, shape in shapes.items()
    }


def action_tables(
    tokenizer: Tokenizer,
    sources: Sequence[str],
    kinds: Sequence[str],
    spaces: dict[str, ActionSpace],
) -> step_lib.ActionTables | None:
    """What the step needs to measure errors of actions in physical units; None where no source has
    actions.
    """
    if not spaces:
        return None
    finest = max(spaces.values(), key=lambda space: space.bins)
    dimensions = max(len(space.names) for space in spaces.values())
    centres = np.full((len(sources), dimensions, finest.bins), np.nan, np.float32)
    terminate = np.zeros(len(sources), bool)
    for name, space in spaces.items():
        number = list(sources).index(name)
        centres[number, : len(space.names), : space.bins] = space.centres
        terminate[number] = space.terminate
    return step_lib.ActionTables(
        bin_of_id=jnp.asarray(ActionTokenizer(finest, tokenizer).bin_of_id),
        centres=jnp.asarray(centres),
        terminate=jnp.asarray(terminate),
        acts=jnp.array([kind in ACTING_KINDS for kind in kinds]),
    )
