"""The training program of a config on a mesh: model, optimizer, state and the jitted step."""

from collections.abc import Collection, Mapping, Sequence
import dataclasses
from typing import Any

from etils import epath
import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.sharding import Mesh
import optax

from rt2_jax.data import pipeline, sources as sources_lib
from rt2_jax.data.data_config import DataConfig, count_pictures
from rt2_jax.data.example import Source
from rt2_jax.data.mixture import Sources
from rt2_jax.models import backbone
from rt2_jax.models.backbone import Backbone
from rt2_jax.nearest import check
from rt2_jax.parallel import sharding
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import (
    adapters,
    flat_products,
    flops,
    optimizer as optimizer_lib,
    step as step_lib,
    train_state as state_lib,
)
from rt2_jax.training.action_metrics import ActionTables


@dataclasses.dataclass(frozen=True, eq=False)
class Program:
    """What `build` makes.

    Attributes:
        model: the module.
        optimizer: the gradient transformation.
        mesh: of devices.
        batch: shapes of a batch, with shardings.
        shapes: of the parameters, boxed with their logical axes.
        state: shapes of the state, with shardings.
        step: jitted step(state, batch) -> (state, `step.Sums`); the state is donated.
        seed: of the initial parameters.
    """

    model: Backbone
    optimizer: optax.GradientTransformation
    mesh: Mesh
    batch: dict[str, jax.ShapeDtypeStruct]
    shapes: Any
    state: state_lib.TrainState
    step: Any
    seed: int

    def init(self, params: Any = None) -> state_lib.TrainState:
        """The state to start from; `params` as for `state.init_state`."""
        return state_lib.init_state(
            self.model, self.optimizer, self.batch, self.mesh, self.seed, params, self.shapes
        )

    def trace(self) -> Any:
        """The traced step: `.jaxpr` to count FLOPs, `.lower().compile()` to run."""
        return self.step.trace(self.state, self.batch)

    def model_flops(self, traced: Any) -> float:
        """FLOPs of a traced step for MFU; rematerialised products do not count.

        A backward pass has two products for each of the forward pass (PaLM, arXiv 2204.02311,
        appendix B), or fewer where everything before them is frozen.
        """
        inputs = (self.batch[name] for name in ('images', 'prompt', 'target'))
        forward = jax.make_jaxpr(self.model.apply)({'params': self.state.params}, *inputs)
        return min(flops.count_flops(traced.jaxpr), 3 * flops.count_flops(forward))


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
    acting_kinds: Collection[str],
    spaces: dict[str, ActionSpace],
) -> Program:
    """Builds the program; nothing is allocated, and `mesh` may be of a topology.

    Args:
        config: the run's config.
        mesh: as `parallel.mesh.make_mesh` makes it.
        tokenizer: of the run.
        sources: names, by the batch's source number.
        kinds: names, by the batch's kind number.
        acting_kinds: the kinds whose targets end with an action.
        spaces: action space of each source that has actions, by name.

    Raises:
        ValueError: something in the config that cannot be.
    """
    check_batch_size(config, mesh)
    model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids.tolist())
    _check_one_pass(model, config, spaces)
    model = adapters.add_adapters(model, config)
    learning = config.optimizer.copy_and_resolve_references().unlock()
    learning.frozen = (*learning.frozen, *getattr(model, 'untrained', ()))
    if isinstance(model, adapters.Adapted):
        learning.frozen = (f'^(?!{adapters.PART}/)',)
    batch = batch_shapes(config, mesh)
    shapes = state_lib.parameter_shapes(model, batch)
    params = nn.meta.unbox(shapes)
    optimizer = optimizer_lib.make_optimizer(learning, config.total_steps, params)
    state = state_lib.abstract_state(shapes, optimizer, mesh)
    step = step_lib.make_train_step(
        _for_devices(model, mesh, config),
        optimizer,
        (len(sources), len(kinds)),
        accumulate=config.accumulate,
        tables=ActionTables.create(
            tokenizer, sources, kinds, acting_kinds, spaces, config.get('one_pass', False)
        ),
        frozen=optimizer_lib.frozen_names(learning, params),
    )

    def on_mesh(*arguments: Any) -> Any:
        with sharding.rules(mesh):
            return step(*arguments)

    # The state comes out of a step as the next one takes it.
    shardings = jax.tree.map(lambda x: x.sharding, state), sharding.replicated(mesh)
    return Program(
        model=model,
        optimizer=optimizer,
        mesh=mesh,
        batch=batch,
        shapes=shapes,
        state=state,
        seed=config.seed,
        step=jax.jit(on_mesh, donate_argnums=0, out_shardings=shardings),
    )


def _check_one_pass(model: Backbone, config: Any, spaces: dict[str, ActionSpace]) -> None:
    """ValueError where a model that writes actions alone is to learn more, or another less than that."""
    every_frame = config.data.get('action_frames', 'last') == 'all'
    name, data = config.model.name, config.data
    if not backbone.is_one_pass(model):
        if every_frame:
            raise ValueError(
                f"config.data.action_frames is 'all'; config.model.name={name!r} learns one action a time"
            )
        return
    others = ('plan_share', 'questions', 'tasks')
    more = [f'robot.{n}.{k}' for n, fields in data.robot.items() for k in others if fields.get(k)]
    more += [f'web.{n}' for n in data.web]
    if more:
        raise ValueError(
            f'config.model.name={name!r} learns actions alone; config.data has {", ".join(more)}'
        )
    for source, space in spaces.items():
        if space.length != model.action_length or space.bins > len(model.columns):
            raise ValueError(
                f'source {source!r} has actions of {space.length} numbers, each one of {space.bins}; '
                f'config.model has {model.action_length}, each one of {len(model.columns)}: set '
                'config.model.slots (or numbers, the first of them) and bins'
            )
    length = model.action_length * (config.data.frames if every_frame else 1) + 1
    if config.data.target_length != length:
        raise ValueError(
            f'config.data.target_length is {config.data.target_length}; actions of '
            f'{model.action_length} numbers in {"all" if every_frame else "the last of"} '
            f'{config.data.frames} frames, and the end, are {length} tokens'
        )
    if config.adapters.rank:
        raise ValueError(f'config.model.name={name!r} has no adapters; set config.adapters.rank=0')


def _for_devices(model: Any, mesh: Mesh, config: Any) -> Any:
    """The model as the devices of the mesh compute it fastest."""
    products = config.get('cpu_products', 'float32')
    check('config.cpu_products', products, flat_products.TYPES)
    on_one_cpu = mesh.size == 1 and mesh.devices.flat[0].platform == 'cpu'
    # The products of adapters are another library's.
    if not on_one_cpu or isinstance(model, adapters.Adapted):
        return model
    return flat_products.for_one_cpu(model, products)


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


def state_spaces(datasets: Mapping[str, Source]) -> dict[str, ActionSpace]:
    """The space of the states in prompts of each source that has some, by name."""
    spaces = {name: getattr(source, 'state_space', None) for name, source in datasets.items()}
    return {name: space for name, space in spaces.items() if space is not None}


def batch_shapes(config: Any, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """Shapes of a config's batch: images uint8 [B,F,H,W,3], prompt [B,P] int32, target [B,T] int32, ..."""
    data, size, where = config.data, config.batch_size, sharding.batch_sharding(mesh)
    shapes = {
        'images': (size, count_pictures(data), data.image_size, data.image_size, 3),
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
