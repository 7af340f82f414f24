"""The policy that the flags of a command name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from absl import flags
import jax
from jax.sharding import Mesh

from rt2_jax.checkpoints import loading
from rt2_jax.errors import UserError
from rt2_jax.parallel import compilation, mesh as mesh_lib
from rt2_jax.policy.policy import Policy

DECISIONS = ('plan', 'smoothing', 'terminate_threshold', 'patience')


def define_decision_flags() -> None:
    """Defines DECISIONS, how actions are decided; None leaves it to the checkpoint."""
    flags.DEFINE_bool('plan', None, 'Plan before each action; by default as it was trained.')
    flags.DEFINE_float('smoothing', None, 'Bins; see Sampler. By default as the config says.')
    flags.DEFINE_float(
        'terminate_threshold', 0.5, 'Probability, 0 to 1, above which an action ends the episode.'
    )
    flags.DEFINE_integer(
        'patience', 1, 'Actions in a row that must end an episode before it ends.', lower_bound=1
    )


class FlagError(UserError, ValueError):
    """The value of a flag is wrong."""


def load_policy(workdir: str, step: int | None, **settings: Any) -> Policy:
    """The policy of --workdir; programs that its run compiled are not compiled again.

    Args:
        workdir: as for `Policy.from_checkpoint`; so are `step` and `settings`.
        step: the latest if None.
        **settings: those that are None are left to the checkpoint.

    Raises:
        FlagError: there is no such policy.
    """
    cache = loading.locate(workdir) / 'compile_cache'
    if cache.exists():
        compilation.use_cache(cache)
    settings = {name: value for name, value in settings.items() if value is not None}
    try:
        return Policy.from_checkpoint(workdir, step, **settings)
    except ValueError as error:  # CheckpointError is one
        raise FlagError(f'--workdir={workdir}: {error}') from error


def local_mesh(axes: Sequence[str]) -> Mesh | None:
    """This process's devices as --mesh=data=2,tensor=4 arranges them; None for one device.

    Raises:
        FlagError: no such axis, or sizes that don't fit the devices.
    """
    if not axes:
        return None
    if bare := [axis for axis in axes if not axis.rpartition('=')[2].isdigit()]:
        raise FlagError(f'--mesh={",".join(bare)}: an axis has a size, such as tensor=4')
    try:
        sizes = {axis: int(size) for axis, size in (part.split('=') for part in axes)}
        return mesh_lib.make_mesh(sizes, jax.local_devices())
    except ValueError as error:
        raise FlagError(f'--mesh={",".join(axes)} (such as data=2,tensor=4): {error}') from error
