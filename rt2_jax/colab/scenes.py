"""The tabletop in a notebook: data of its expert, and one scene to try things on."""

import functools
import tempfile

from rt2_jax.envs.tabletop import collect


@functools.cache
def collected(episodes: int) -> str:
    """The directory of a small data set of scripted episodes, collected in seconds.

    It is kept as long as the notebook runs: the same number again is the same data set.
    """
    directory = tempfile.mkdtemp(prefix='rt2_jax_tabletop_')
    found = collect.collect(directory, collect.Settings(episodes=episodes))
    print(f'{found["episodes"]} scripted episodes with {found["steps"]} steps in {directory}')
    return directory
