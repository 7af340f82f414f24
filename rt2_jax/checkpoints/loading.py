"""Opens a checkpoint directory: a run's, a packed one, or one that `rt2_jax.convert` wrote.

A packed directory (`packing.pack`) has `params.npz` in place of `checkpoints/`: it is small, and loads
anywhere. A converted one has `params.safetensors` and `model.json`, the part of `config.model` that it
fills: a run can start from it.
'package:NAME' is one that comes with rt2_jax, in rt2_jax/weights/NAME.
"""

from collections.abc import Callable, Mapping
import dataclasses
from importlib import resources
from typing import Any
import zipfile

from etils import epath
import flax
import jax
import jax.numpy as jnp
from jax.sharding import NamedSharding, PartitionSpec
import ml_collections
import numpy as np

from rt2_jax import paths, records
from rt2_jax.checkpoints import acting_robot, assets
from rt2_jax.checkpoints.assets import CheckpointError
from rt2_jax.checkpoints.checkpoint import Checkpoints, complete_steps, restore_arrays
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.nearest import nearest
from rt2_jax.parallel import sharding
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.text.actions import ActionSpace
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import adapters, train_state as state_lib
from rt2_jax.training.train_state import SavedArray
from rt2_jax.weights import tensors

PACKAGE = 'package:'
PACKED = 'params.npz'  # in a packed directory
PARAMS, MODEL = 'params', 'model.json'  # in a converted directory
MODEL_FIELDS = ('format', 'integers')  # that not every version or checkpoint has


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """All that inference needs.

    Attributes:
        config: the config of the run.
        params: nested dict of arrays; adapters are merged into their kernels.
        tokenizer: the run's tokenizer.
        action_space: of the embodiment that the config names.
        action_spaces: of each source with actions that the run learnt from, by name.
        state_spaces: of each source whose prompts have a state, by name.
        embodiment: the record of that embodiment's card.
        cards: of each source whose card is known, by name.
        step: how many steps the parameters have been trained for.
        directory: where all this came from.
    """

    config: ml_collections.ConfigDict
    params: Any
    tokenizer: Tokenizer
    action_space: ActionSpace
    action_spaces: dict[str, ActionSpace]
    state_spaces: dict[str, ActionSpace]
    embodiment: dict[str, Any]
    cards: dict[str, RobotCard]
    step: int
    directory: epath.Path

    def select_source(self, name: str = '') -> acting_robot.Source:
        """The source to act for.

        Args:
            name: of the source; '' for the only one, or else that of the config's embodiment.

        Raises:
            CheckpointError: the run learnt from no such source, or from several that could be meant.
        """
        card = assets.recorded_card(self.embodiment)
        default = acting_robot.Source(
            card.name if card else self.config.embodiment, self.action_space, card
        )
        try:
            source = acting_robot.select_source(name, default, self.action_spaces, self.cards)
        except ValueError as error:
            raise CheckpointError(f'{self.directory} holds {error}') from error
        return dataclasses.replace(source, state_space=self.state_spaces.get(source.name))


def load_for_inference(
    workdir: epath.PathLike,
    step: int | None = None,
    targets: Callable[[ml_collections.ConfigDict, Tokenizer], Any] | None = None,
) -> Loaded:
    """Loads what `evaluate` and `serve` need from a directory and nothing else.

    Args:
        workdir: a run's directory, a packed one, or 'package:NAME' for one that comes with the
            package.
        step: which step; the latest by default.
        targets: from the run's config and tokenizer to a tree of `jax.ShapeDtypeStruct` with
            shardings, as which the parameters are read; by default as they were saved, on the first
            local device.

    Raises:
        CheckpointError: no such directory, empty, half-written, no such step, or another tokenizer
            than the run's, or parameters that differ in name or shape from those of `targets`.
    """
    loaded = open_for_inference(workdir, step)
    if targets:
        shapes = targets(loaded.config, loaded.tokenizer)
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
    """As `load_for_inference`, but parameters are not read before `state.place`."""
    workdir = locate(workdir)
    config = assets.read_config(workdir)
    tokenizer = assets.read_tokenizer(workdir)
    embodiment = assets.read_embodiment(workdir / 'embodiment.json')
    # Older runs did not record them.
    assets.check_action_tokens(workdir, embodiment.get('action_tokens', ()), tokenizer)
    if (workdir / PACKED).exists():
        params, step = _open_packed(workdir / PACKED, step)
    else:
        step = choose_step(workdir, step)
        params = open_saved(workdir, step, config)
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
        state_spaces={n: ActionSpace.from_json(x) for n, x in embodiment['states'].items()},
        embodiment=embodiment['embodiment'],
        # Older runs did not record them.
        cards=cards or acting_robot.source_cards(config, spaces),
    )


def open_saved(workdir: epath.Path, step: int, config: Any) -> dict[str, Any]:
    """Opens the parameters of a step; they are read when they are placed, adapters merged.

    Each process reads what lies on its own devices.

    Args:
        workdir: the run's directory.
        step: one of its steps.
        config: the run's config.

    Returns:
        A tree of `state.SavedArray`.

    Raises:
        CheckpointError: a file is missing or truncated, or they cannot be listed.
    """
    checkpoints = Checkpoints(workdir, read_only=True)
    saved = checkpoints.parameter_shapes(step)
    folder = checkpoints.directory / str(step) / 'params'
    checkpoints.close()
    pairs = {
        name.replace('.', '/'): {
            f'{adapters.PART}/{name}/{half}': x for half, x in sorted(pair.items())
        }
        for name, pair in saved.get(adapters.PART, {}).items()
    }

    def read(targets: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        arrays = dict(targets)
        for name in set(targets) & set(pairs):
            where = targets[name].sharding
            whole = (
                NamedSharding(where.mesh, PartitionSpec())
                if isinstance(where, NamedSharding)
                else where
            )
            for half, x in pairs[name].items():
                arrays[half] = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole)
        tree = flax.traverse_util.unflatten_dict(arrays, sep='/')
        return sharding.named_leaves(adapters.merge(restore_arrays(folder, tree), config))

    return {
        part: jax.tree_util.tree_map_with_path(
            lambda path, x, part=part: SavedArray(
                f'{part}/{sharding.parameter_name(path)}', tuple(x.shape), x.dtype, read
            ),
            tree,
        )
        for part, tree in saved.items()
        if part != adapters.PART
    }


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


def _open_packed(path: epath.Path, step: int | None) -> tuple[Any, int]:
    """The parameters of a packed directory, a tree of tensors, and their step."""
    with paths.local_copy(path) as local, local.open('rb') as file, _npz(path, file) as arrays:
        if step is not None and step != int(arrays['step']):
            raise CheckpointError(f'{path} holds step {int(arrays["step"])}, not {step}')
        step, dtype = int(arrays['step']), jnp.dtype(str(arrays['dtype']))

    def widened(tensor: tensors.Tensor) -> tensors.Tensor:
        return dataclasses.replace(
            tensor,
            dtype=np.dtype(np.float32),
            read=lambda: tensor.read().view(dtype).astype(np.float32),
        )

    params = {
        name.removeprefix('params/'): widened(tensor)
        for name, tensor in tensors.open_tensors(path).items()
        if name.startswith('params/')
    }
    return flax.traverse_util.unflatten_dict(params, sep='/'), step


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
    """Reads model.json of a converted directory: `config.model`, and the integers' tokens.

    Raises:
        CheckpointError: it is damaged, or of a newer version.
    """
    path = directory / MODEL
    record = records.read(path, CheckpointError)
    records.check_fields(record, ('model',), MODEL_FIELDS, path, CheckpointError)
    return record
