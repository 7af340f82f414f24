"""The program of a job on a mesh, as shapes alone: the training step, or the sampler of one action."""

from collections.abc import Callable, Mapping
import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh

from rt2_jax import paths
from rt2_jax.checkpoints import param_shapes as weights_lib
from rt2_jax.data import cards as robot_cards
from rt2_jax.data.data_config import count_pictures
from rt2_jax.decoding import compact
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.errors import UserError
from rt2_jax.estimation import model_flops
from rt2_jax.models import backbone
from rt2_jax.nearest import check
from rt2_jax.parallel import sharding
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import program as program_lib, train_state as state_lib


class EstimateError(UserError, ValueError):
    """A job that cannot be estimated; its user can change that."""


@dataclasses.dataclass(frozen=True)
class Job:
    """A job on a mesh.

    Attributes:
        mode: 'train' or 'decode'.
        mesh: of the slice's devices.
        batch_size: rows of a batch.
        tokens: image, prompt and target tokens of a batch.
        parameters: how many numbers the model has.
        largest_parameter: how many numbers the largest parameter outside the layers has: the
            embedding. Layers are gathered one by one.
        inputs: shapes with shardings of what the program takes.
        saved: shapes with shardings of what a checkpoint holds; empty for 'decode'.
        flops: matrix products of a step by `estimation.model_flops`.
        trace: traces the program.
        stand_in: the missing tokenizer file that another stands in for; '' if it is there.
    """

    mode: str
    mesh: Mesh
    batch_size: int
    tokens: int
    parameters: int
    largest_parameter: int
    inputs: Any
    saved: Any
    flops: float
    trace: Callable[[], Any]
    stand_in: str


def build(config: Any, mesh: Mesh, mode: str, batch_size: int, weights: str) -> Job:
    """Builds a job; nothing is allocated and nothing is compiled.

    Args:
        config: of the run.
        mesh: of the slice's devices, which need not be here.
        mode: of `MODES`.
        batch_size: rows to decode at once; training takes the config's.
        weights: of `compact.WEIGHTS`.

    Raises:
        ValueError: something in the config that cannot be on this mesh.
    """
    check('mode', mode, MODES)
    tokenizer, stand_in = load_tokenizer(config)
    return MODES[mode](config, mesh, tokenizer, stand_in, batch_size, weights)


def load_tokenizer(config: Any) -> tuple[Tokenizer, str]:
    """The run's tokenizer, or the project's own where the file is missing and not needed.

    With `config.model.vocab` the model's sizes do not depend on the tokenizer.

    Returns:
        The tokenizer, and the name of the file that it stands in for, '' for none.

    Raises:
        EstimateError: the file is missing, and the config does not say how large the vocabulary is.
    """
    if not config.tokenizer:
        return Tokenizer.load_default(), ''
    path = paths.of(config.tokenizer)
    if path.exists():
        return Tokenizer.load(path), ''
    if config.model.get('vocab', 0):
        return Tokenizer.load_default(), config.tokenizer
    raise EstimateError(
        f'there is no tokenizer file {config.tokenizer}, and the config does not say how large the '
        'vocabulary is: set --config.tokenizer, or model.vocab in the config'
    )


def bytes_per_device(tree: Any) -> int:
    """Bytes that one device holds of a tree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def total_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes, each counted once."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def _train(
    config: Any, mesh: Mesh, tokenizer: Tokenizer, stand_in: str, batch_size: int, weights: str
) -> Job:
    """The training step that `train` runs."""
    del batch_size
    if weights != compact.STORED:
        raise EstimateError(f'--weights={weights} is for --mode=decode')
    sources = [*config.data.robot, *config.data.web]
    program = program_lib.build(
        config, mesh, tokenizer, sources, sources, (), _action_spaces(config.data.robot)
    )
    vocab = config.model.get('vocab', 0) or tokenizer.vocab_size
    rows = int(config.batch_size)
    return Job(
        mode='train',
        mesh=mesh,
        batch_size=rows,
        tokens=rows * _tokens(config, config.data.target_length),
        parameters=state_lib.count_parameters(program.state.params),
        largest_parameter=_largest(program.state.params),
        inputs=(program.state, program.batch),
        saved=program.state,
        flops=model_flops.train_flops(config.model, vocab, config.data, rows),
        trace=program.trace,
        stand_in=stand_in,
    )


def _decode(
    config: Any, mesh: Mesh, tokenizer: Tokenizer, stand_in: str, batch_size: int, weights: str
) -> Job:
    """The sampler's call for one action a row, with weights in the type that they are used in."""
    if not backbone.decodes(config.model):
        raise EstimateError(
            'config.model is a vision tower that is trained alone; it does not decode'
        )
    parts = mesh.shape['data'] * mesh.shape['fsdp']
    if batch_size % parts:
        raise EstimateError(
            f'--batch_size={batch_size} does not split over data x fsdp = {parts} of config.mesh; '
            'take a multiple, or give the devices to config.mesh.tensor'
        )
    with config.copy_and_resolve_references().unlocked() as config:
        config.batch_size, config.accumulate = batch_size, 1
    batch = program_lib.batch_shapes(config, mesh)
    stored = weights_lib.shapes(config, tokenizer, mesh)
    model, params = (
        backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids),
        stored,
    )
    if weights != compact.STORED:
        model = compact.compact_model(model, mesh.devices.flat[0].platform)
        params = compact.shapes(model, weights, weights_lib.inputs(config), mesh)
    space = _acting_space(config)

    def trace() -> Any:
        one_pass = config.get('one_pass', False)
        actions = ActionTokenizer(space, tokenizer)
        sampler = Sampler(model, Grammar.create(tokenizer, actions, one_pass=one_pass))
        with sharding.rules(mesh):
            return sampler.trace(params, batch['images'], batch['prompt'], Kind.ACTION)

    return Job(
        mode='decode',
        mesh=mesh,
        batch_size=batch_size,
        tokens=batch_size * _tokens(config, space.length),
        parameters=state_lib.count_parameters(stored),
        largest_parameter=_largest(stored),
        inputs=(params, batch['images'], batch['prompt']),
        saved=(),
        flops=model_flops.decode_flops(
            config.model, config.data, batch_size, space.length, space.bins
        ),
        trace=trace,
        stand_in=stand_in,
    )


MODES: dict[str, Callable[..., Job]] = {'train': _train, 'decode': _decode}


def _largest(params: Any) -> int:
    leaves = sharding.named_leaves(params)
    return max(leaf.size for name, leaf in leaves.items() if '/layers/' not in f'/{name}')


def _tokens(config: Any, answer: int) -> int:
    """Tokens of one row: patches of its frames, prompt and answer."""
    if config.model.name == 'rt1':
        return count_pictures(config.data) * (config.model.image_tokens + config.model.slots)
    vision = config.model.vision
    # A ResNet's stem and pooling halve the sides, too.
    patch = vision.get('patch') or 4 * math.prod(vision.strides)
    patches = (config.data.image_size // patch) ** 2
    return count_pictures(config.data) * patches + config.data.prompt_length + answer


def _action_spaces(sets: Mapping[str, Any]) -> dict[str, ActionSpace]:
    cards = {name: robot_cards.known(settings.card) for name, settings in sets.items()}
    return {name: card.action_space for name, card in cards.items() if card}


def _acting_space(config: Any) -> ActionSpace:
    card = robot_cards.known(config.embodiment)
    return card.action_space if card else ActionSpace.rt1_bounds()
