"""Parameters of a run's checkpoint that are read when they are placed: of each, every process reads
what lies on its own devices.
"""

from collections.abc import Mapping
from typing import Any

from etils import epath
import flax
import jax
from jax.sharding import NamedSharding, Sharding

from rt2_jax.checkpoints.checkpoint import Checkpoints, restore_arrays
from rt2_jax.parallel import sharding
from rt2_jax.training import adapters
from rt2_jax.training.state import SavedArray


def parameters(workdir: epath.Path, step: int, config: Any) -> dict[str, Any]:
    """The parameters of a step, none of them read; adapters are merged into their kernels.

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
    listed = checkpoints.listed(step)
    folder = checkpoints.directory / str(step) / 'params'
    checkpoints.close()
    pairs = {
        name.replace('.', '/'): {
            f'{adapters.PART}/{name}/{half}': x for half, x in sorted(pair.items())
        }
        for name, pair in listed.get(adapters.PART, {}).items()
    }

    def read(wanted: Mapping[str, jax.ShapeDtypeStruct]) -> dict[str, jax.Array]:
        onto = dict(wanted)
        for name in set(wanted) & set(pairs):
            where = _everywhere(wanted[name].sharding)
            for half, x in pairs[name].items():
                onto[half] = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where)
        tree = flax.traverse_util.unflatten_dict(onto, sep='/')
        return sharding.named_leaves(adapters.plain(restore_arrays(folder, tree), config))

    return {
        part: jax.tree_util.tree_map_with_path(
            lambda path, x, part=part: SavedArray(
                f'{part}/{sharding.parameter_name(path)}', tuple(x.shape), x.dtype, read
            ),
            tree,
        )
        for part, tree in listed.items()
        if part != adapters.PART
    }


def _everywhere(where: Sharding) -> Sharding:
    """The whole array on each of a sharding's devices."""
    return sharding.replicated(where.mesh) if isinstance(where, NamedSharding) else where
