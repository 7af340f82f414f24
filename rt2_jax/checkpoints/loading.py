"""From a directory to what inference and a new run need: a run's checkpoints, a packed one, or one that
`rt2_jax.convert` made.

A packed directory (`pack`) has `params.npz` in place of `checkpoints/`: it is small, and loads anywhere. A
converted one has `params.safetensors` and `model.json`, the part of `config.model` that it fills: a run
can start from it, and reads of each array what its devices hold.
'package:NAME' is one that comes with rt2_jax, in rt2_jax/weights/NAME.
"""

from collections.abc import Callable, Sequence
import dataclasses
from importlib import resources
from typing import Any
import zipfile

from absl import logging
from etils import epath
import flax
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from rt2_jax import configuration, paths, records
from rt2_jax.checkpoints import acting_robot, recorded, stored
from rt2_jax.checkpoints.assets import CheckpointError, check_action_tokens, read_config
from rt2_jax.checkpoints.checkpoint import complete_steps
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.nearest import nearest
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import INTEGERS, Tokenizer
from rt2_jax.training import state as state_lib
from rt2_jax.weights import tensors

PACKAGE = 'package:'
PACKED = 'params.npz'  # of a packed directory
PARAMS, MODEL = 'params', 'model.json'  # of a converted directory
MODEL_FIELDS = ('format', 'integers')  # that not every version or checkpoint has
WORDS = {'embedding', 'head'}  # parts of a model by token


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """All that inference needs.

    Attributes:
        config: the config of the run.
        params: nested dict of arrays; adapters are merged into their kernels.
        tokenizer: the run's tokenizer.
        action_space: of the embodiment that the config names.
        action_spaces: of each source with actions that the run learnt from, by name.
        embodiment: that embodiment's card as it was recorded.
        cards: of each source whose card is known, by name.
        step: how many steps the parameters have been trained for.
        directory: where all this came from.
    """

    config: ml_collections.ConfigDict
    params: Any
    tokenizer: Tokenizer
    action_space: ActionSpace
    action_spaces: dict[str, ActionSpace]
    embodiment: dict[str, Any]
    cards: dict[str, RobotCard]
    step: int
    directory: epath.Path

    def source(self, name: str = '') -> acting_robot.Source:
        """The source of a name; '' is the only one, or else that of the config's embodiment.

        Raises:
            CheckpointError: the run learnt from no such source, or from several that could be meant.
        """
        card = recorded.card_of(self.embodiment)
        own = acting_robot.Source(
            card.name if card else self.config.embodiment, self.action_space, card
        )
        try:
            return acting_robot.choose(name, own, self.action_spaces, self.cards)
        except ValueError as error:
            raise CheckpointError(f'{self.directory} holds {error}') from error

    def space_of(self, source: str = '') -> ActionSpace:
        """The action space of a source; arguments and errors as for `source`."""
        return self.source(source).action_space


def load_for_inference(
    workdir: epath.PathLike,
    step: int | None = None,
    onto: Callable[[ml_collections.ConfigDict, Tokenizer], Any] | None = None,
) -> Loaded:
    """Loads what `evaluate` and `serve` need from a directory and nothing else.

    Args:
        workdir: a run's directory, a packed one, or 'package:NAME' for one that comes with the
            package.
        step: which step; the latest by default.
        onto: from the run's config and tokenizer to the shapes, types and places that the parameters
            shall have, a tree of `jax.ShapeDtypeStruct`; by default as they were saved, on the first
            local device.

    Raises:
        CheckpointError: no such directory, empty, half-written, no such step, or another tokenizer
            than the run's, or parameters that differ in name or shape from those of `onto`.
    """
    loaded = open_for_inference(workdir, step)
    if onto:
        shapes = onto(loaded.config, loaded.tokenizer)
    else:
        where = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        shapes = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), loaded.params
        )
    try:
        params = state_lib.place(loaded.params, shapes, str(loaded.directory))
    except ValueError as error:
        raise CheckpointError(str(error)) from error
    return dataclasses.replace(loaded, params=params)


def open_for_inference(workdir: epath.PathLike, step: int | None = None) -> Loaded:
    """As `load_for_inference`, with parameters that are not read yet: a tree for `state.place`."""
    workdir = locate(workdir)
    config = read_config(workdir)
    tokenizer = recorded.tokenizer(workdir)
    embodiment = recorded.embodiment(workdir / 'embodiment.json')
    # Older runs did not record them.
    check_action_tokens(workdir, embodiment.get('action_tokens', ()), tokenizer)
    if (workdir / PACKED).exists():
        params, step = _open_packed(workdir / PACKED, step)
    else:
        step = choose_step(workdir, step)
        params = stored.parameters(workdir, step, config)
    spaces = {name: ActionSpace.from_json(x) for name, x in embodiment['sources'].items()}
    cards = {name: RobotCard.from_json(x) for name, x in embodiment['cards'].items()}
    return Loaded(
        config=config,
        params=params,
        tokenizer=tokenizer,
        step=step,
        directory=workdir,
        action_space=ActionSpace.from_json(embodiment['action_space']),
        action_spaces=spaces,
        embodiment=embodiment['embodiment'],
        # Older runs did not record them.
        cards=cards or acting_robot.cards_of(config, spaces),
    )


def choose_step(workdir: epath.Path, step: int | None) -> int:
    """The step to read of a run's directory: `step`, or the latest.

    Raises:
        CheckpointError: the directory has no such step, or none.
    """
    steps = complete_steps(workdir)
    if not steps:
        folder = workdir / 'checkpoints'
        present = [path.name for path in folder.iterdir()] if folder.exists() else []
        unfinished = f' (unfinished: {", ".join(sorted(present))})' if present else ''
        raise CheckpointError(
            f'{workdir} has no complete checkpoint yet{unfinished}: training was stopped before '
            'its first one, or is still on its way to it; start it again with the same command'
        )
    if step is not None and step not in steps:
        raise CheckpointError(
            f'{workdir} has no checkpoint of step {step}{nearest(str(step), map(str, steps))}'
        )
    return steps[-1] if step is None else step


def locate(directory: epath.PathLike) -> epath.Path:
    """The path of a checkpoint directory; 'package:NAME' is one that comes with rt2_jax.

    Raises:
        CheckpointError: the package has no checkpoint of this name.
    """
    if not str(directory).startswith(PACKAGE):
        return paths.of(directory)
    name = str(directory).removeprefix(PACKAGE)
    root = epath.Path(str(resources.files('rt2_jax'))) / 'weights'
    present = (
        [path.name for path in root.iterdir() if (path / 'config.json').exists()]
        if root.exists()
        else []
    )
    if name not in present:
        hint = nearest(name, present) if present else ', nor any other'
        raise CheckpointError(f'the package has no checkpoint {name!r}{hint}')
    return root / name


def pack(
    workdir: epath.PathLike,
    output: epath.PathLike,
    step: int | None = None,
    dtype: Any = jnp.bfloat16,
) -> int:
    """Writes the parameters and assets of a run into a small directory that loads anywhere.

    Args:
        workdir: the run's directory.
        output: the directory to write, with a `params.npz`.
        step: which step; the latest by default.
        dtype: bfloat16 or float32.

    Returns:
        The size of `params.npz` in bytes.
    """
    loaded, output = load_for_inference(workdir, step), paths.of(output)
    output.mkdir(parents=True, exist_ok=True)
    for name in ('tokenizer.model', 'embodiment.json', 'versions.json'):
        paths.write(output / name, (loaded.directory / name).read_bytes())
    config = loaded.config.unlock()
    config.compile_cache = ''  # a path of the machine that trained it
    if 'adapters' in config:
        config.adapters.rank = 0  # they are in the weights
    paths.write(output / 'config.json', configuration.to_json(config).encode())
    arrays = {'step': np.int64(loaded.step), 'dtype': np.array(jnp.dtype(dtype).name)}
    for name, value in named_leaves(loaded.params).items():
        value = np.asarray(value.astype(dtype))
        # npz knows no bfloat16: its bits are kept as integers.
        arrays[f'params/{name}'] = value.view(np.uint16) if value.dtype.itemsize == 2 else value
    with paths.writing(output / PACKED) as local, local.open('wb') as file:
        np.savez_compressed(file, **arrays)
    return (output / PACKED).stat().length


def _open_packed(path: epath.Path, step: int | None) -> tuple[Any, int]:
    """The parameters of a packed directory, a tree of tensors, and their step."""
    with paths.local_copy(path) as local, local.open('rb') as file, _npz(path, file) as arrays:
        if step is not None and step != int(arrays['step']):
            raise CheckpointError(f'{path} holds step {int(arrays["step"])}, not {step}')
        step, dtype = int(arrays['step']), jnp.dtype(str(arrays['dtype']))

    def one(name: str, tensor: tensors.Tensor) -> tensors.Tensor:
        return dataclasses.replace(
            tensor,
            dtype=np.dtype(np.float32),
            read=lambda: tensor.read().view(dtype).astype(np.float32),
        )

    found = {
        name.removeprefix('params/'): one(name, tensor)
        for name, tensor in tensors.open_tensors(path).items()
        if name.startswith('params/')
    }
    return flax.traverse_util.unflatten_dict(found, sep='/'), step


def _npz(path: epath.Path, file: Any) -> Any:
    try:
        arrays = np.load(file)
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise CheckpointError(f'{path} is truncated or no npz file: {error}') from error
    if 'step' not in arrays or 'dtype' not in arrays:
        raise CheckpointError(f'{path} has no step or no dtype: it is no packed checkpoint')
    return arrays


def is_ours(directory: epath.PathLike) -> bool:
    """Whether a directory is a run's, a packed or a converted one."""
    if str(directory).startswith(PACKAGE):
        return True
    path = paths.of(directory)
    return (path / MODEL).exists() or (path / 'embodiment.json').exists()


def open_params(directory: epath.PathLike) -> tuple[dict[str, Any], dict[str, tensors.Tensor]]:
    """`config.model` and the parameters by name, of a converted directory not read yet.

    Raises:
        CheckpointError: as `load_for_inference`.
    """
    path = locate(directory)
    if (path / MODEL).exists():
        model = read_model(path)['model']
        return model, tensors.open_tensors(path)
    loaded = load_for_inference(path)
    named = named_leaves(jax.device_get(loaded.params))
    model = loaded.config.model.to_dict() | {'image_size': loaded.config.data.image_size}
    model['vocab'] = model.get('vocab') or loaded.tokenizer.vocab_size
    return model, {name: tensors.of_array(name, x) for name, x in named.items()}


def read_model(directory: epath.Path) -> dict[str, Any]:
    """What model.json of a converted directory says: `config.model`, and the integers' tokens.

    Raises:
        CheckpointError: it is damaged, or of a newer version.
    """
    path = directory / MODEL
    record = records.read(path, CheckpointError)
    records.check_fields(record, ('model',), MODEL_FIELDS, path, CheckpointError)
    return record


def initial_params(init_from: str, parts: Sequence[str], tokenizer: Tokenizer) -> Any:
    """Parameters that a run starts from, for `config.init_from`.

    Args:
        init_from: directories by comma, each a run's, a converted one or 'package:NAME'; each fills
            other top-level parts; '' for none.
        parts: top-level parts that are taken ('tower', ...); all if empty.
        tokenizer: of the run that starts.

    Returns:
        A tree for `state.place`: nothing is read before its place is known.

    Raises:
        CheckpointError: as `load_for_inference`, a part that no directory has or several have, or one
            that was trained with another vocabulary, or converted with other tokens for integers.
    """
    if not init_from:
        return {}
    found: dict[str, Any] = {}
    for directory in init_from.split(','):
        params = _parts_of(directory, tokenizer)
        params = {part: x for part, x in params.items() if not parts or part in parts}
        if WORDS & set(params):
            _check_integers(directory, tokenizer)
        if twice := set(found) & set(params):
            raise CheckpointError(
                f'config.init_from: {directory} has {", ".join(sorted(twice))}, which another has '
                'too; name the parts to take in config.init_parts, or give one directory'
            )
        found |= params
    for part in parts:
        if part not in found:
            raise CheckpointError(
                f'config.init_parts names {part!r}, which {init_from} does not have'
                f'{nearest(part, found)}'
            )
    return found


def _parts_of(directory: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """Top-level parts of a directory's parameters."""
    path = locate(directory)
    if (path / MODEL).exists():
        named = {tuple(n.split('/')): t for n, t in tensors.open_tensors(path).items()}
        return flax.traverse_util.unflatten_dict(named)
    return _trained_parts(directory, tokenizer)


def _check_integers(directory: str, tokenizer: Tokenizer) -> None:
    """Raises CheckpointError where a converted directory has other tokens for integers than the run."""
    path = locate(directory) / MODEL
    told = read_model(path.parent).get('integers') if path.exists() else None
    if not told:  # a run's, or without a vocabulary of its own
        return
    ours = set(tokenizer.integer_ids.tolist())
    if not ours.issuperset(told['ids']) or (told['way'] == 'append' and len(ours) < INTEGERS):
        raise CheckpointError(
            f'config.init_from={directory} has tokens for integers by {told["way"]!r} ({path}), and '
            "they are others than those of this run's tokenizer; set config.tokenizer to "
            f'{path.parent / "tokenizer.model"}, or convert again'
        )


def _trained_parts(directory: str, tokenizer: Tokenizer) -> dict[str, Any]:
    loaded = open_for_inference(directory)
    if loaded.tokenizer.model_bytes != tokenizer.model_bytes:
        raise CheckpointError(
            f'config.init_from={directory} was trained with another vocabulary than this run has; '
            'set config.tokenizer to its tokenizer.model'
        )
    logging.info('starting from %s, step %d', loaded.directory, loaded.step)
    return loaded.params
