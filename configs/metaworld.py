"""Meta-World's tasks, co-fine-tuned with the small web from the packaged tiny PaLI: no GPU is needed.

    bash launch/worlds.sh metaworld
    world=.worlds/metaworld/bin/python
    $world -m rt2_jax.envs.metaworld.collect --suite=mt10 --episodes=3000 --output=runs/data/metaworld_mt10
    $world -m rt2_jax.train --config=configs/metaworld.py:mt10 --workdir=runs/metaworld_mt10
    $world -m rt2_jax.evaluate --workdir=runs/metaworld_mt10 --suite=metaworld/mt10 --episodes=200 \
        --output=runs/metaworld_mt10.json

Arguments:
    mt10    ten tasks, of runs/data/metaworld_mt10
    mt50    all fifty, of runs/data/metaworld_mt50 (15,000 episodes), twice as many steps
    mt10_scratch, mt50_scratch   the same from random weights

The recipe is that of configs/tabletop.py:cofinetune (Muon, smoothed action targets). A corner and the top are
seen: from one camera nobody can tell how far away a goal in the air is. Half of the actions come behind a
plan that says where the thing, the goal and the hand are, and some of the web's questions are about that.
Frames are seen at 96 pixels, where a puck is 4 of them; --config.data.image_size=128 shows more and costs 1.8
times as much.
"""

import pathlib

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import nearest

_SCRATCH = '_scratch'
_STEPS = {'mt10': 3_000, 'mt50': 6_000}
ARGUMENTS = (*_STEPS, *(name + _SCRATCH for name in _STEPS))


def get_config(arg: str = 'mt10') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f'configs/metaworld.py has no {arg!r}{nearest(arg, ARGUMENTS)}')
    suite = arg.removesuffix(_SCRATCH)
    config = configuration.load(
        pathlib.Path(__file__).with_name('tabletop.py'),
        'scratch' if arg.endswith(_SCRATCH) else 'cofinetune',
    ).unlock()
    config.total_steps = _STEPS[suite]
    config.embodiment = 'metaworld'
    config.data.update(cameras=('image', 'top'), prompt_length=40, target_length=48)
    config.data.web.web.kinds.plan = 0.0  # those are in the tabletop's words
    config.data.robot = dict(
        metaworld=dict(
            directory=f'runs/data/metaworld_{suite}',
            card='metaworld',
            weight=1.0,
            success_only=True,
            holdout=0.01,  # share of the episodes that are kept for validation
            plan_share=0.5,
            plans='column:observation/plan',
            questions=0.5,
        )
    )
    return config.lock()
