"""OGBench's cubes and scene, co-fine-tuned with the small web from the packaged tiny PaLI: no GPU is needed.

    bash launch/worlds.sh ogbench
    world=.worlds/ogbench/bin/python
    $world -m rt2_jax.envs.ogbench.collect --suite=cube-quadruple --episodes=3000 \
        --output=runs/data/ogbench_cube-quadruple
    $world -m rt2_jax.train --config=configs/ogbench.py:cube-quadruple --workdir=runs/ogbench
    $world -m rt2_jax.evaluate --workdir=runs/ogbench --suite=ogbench/cube-quadruple --episodes=200 \
        --output=runs/ogbench.json

Arguments:
    cube-single, cube-double, cube-triple, cube-quadruple, scene   of runs/data/ogbench_ARGUMENT
    cube-single_scratch, ...                                       the same from random weights

The recipe is that of configs/tabletop.py:cofinetune (Muon, smoothed action targets). Frames are seen at 96
pixels, where a cube is 7 of them; --config.data.image_size=128 shows more and costs 1.8 times as much.
"""

import pathlib

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import nearest

_SCRATCH = '_scratch'
_SUITES = ('cube-single', 'cube-double', 'cube-triple', 'cube-quadruple', 'scene')
ARGUMENTS = (*_SUITES, *(name + _SCRATCH for name in _SUITES))


def get_config(arg: str = 'cube-quadruple') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f'configs/ogbench.py has no {arg!r}{nearest(arg, ARGUMENTS)}')
    config = configuration.load(
        pathlib.Path(__file__).with_name('tabletop.py'),
        'scratch' if arg.endswith(_SCRATCH) else 'cofinetune',
    ).unlock()
    config.total_steps = 3_000
    config.embodiment = 'ogbench'
    config.data.prompt_length = 40
    config.data.robot = dict(
        ogbench=dict(
            directory=f'runs/data/ogbench_{arg.removesuffix(_SCRATCH)}',
            card='ogbench',
            weight=1.0,
            success_only=True,
            holdout=0.01,  # share of the episodes that are kept for validation
        )
    )
    return config.lock()
