"""The tabletop in a notebook: one scene to try things on, and data of its expert."""

import dataclasses
import functools
import tempfile

from etils import epath
import numpy as np

from rt2_jax import paths
from rt2_jax.data import images
from rt2_jax.envs.tabletop import collect
from rt2_jax.envs.tabletop.env import TabletopEnv


@dataclasses.dataclass(frozen=True, eq=False)
class Scene:
    """What there is to look at, ask about and act on.

    Attributes:
        picture: uint8 [H, W, 3], as the policy is given it.
        instruction: what the scene asks for; '' for a picture, which asks for nothing.
        objects: names of what lies there; none are known of a picture.
    """

    picture: np.ndarray
    instruction: str = ''
    objects: tuple[str, ...] = ()


def of_tabletop(suite: str, seed: int) -> Scene:
    """How an episode of a suite begins; raises ValueError with the nearest name for an unknown one."""
    env = TabletopEnv(suite)
    try:
        observation, info = env.reset(seed=seed)
    finally:
        env.close()
    return Scene(observation['image'], observation['instruction'], tuple(info['object_names']))


def of_file(path: epath.PathLike) -> Scene:
    """A JPEG or PNG file.

    Raises:
        ValueError: no such file, or none of these.
    """
    path = paths.of(path)
    if not path.exists():
        raise ValueError(f'There is no {path}; on Colab, upload it by the folder sign on the left')
    try:
        return Scene(images.decode(path.read_bytes()))
    except ValueError as error:
        raise ValueError(f'{path}: {error}') from error


@functools.cache
def collected(episodes: int) -> str:
    """The directory of a small data set of scripted episodes, collected in seconds.

    It is kept as long as the notebook runs: the same number again is the same data set.
    """
    directory = tempfile.mkdtemp(prefix='rt2_jax_tabletop_')
    found = collect.collect(directory, collect.Settings(episodes=episodes))
    print(f'{found["episodes"]} scripted episodes with {found["steps"]} steps in {directory}')
    return directory
