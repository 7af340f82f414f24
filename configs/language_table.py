"""Language-Table's simulator, co-fine-tuned with the small web from the packaged tiny PaLI: no GPU is needed.

    git clone https://github.com/google-research/language-table CLONE
    bash launch/worlds.sh language_table CLONE
    world=.worlds/language_table/bin/python
    $world -m rt2_jax.envs.language_table.collect --suite=all --episodes=2000 \
        --output=runs/data/language_table_all
    $world -m rt2_jax.train --config=configs/language_table.py:all --workdir=runs/language_table
    $world -m rt2_jax.evaluate --workdir=runs/language_table --suite=language_table/all --episodes=250 \
        --output=runs/language_table.json

Arguments:
    all, blocktoblock, ...    of runs/data/language_table_ARGUMENT, a suite of that world
    all_scratch, ...          the same from random weights

As in the paper (arXiv 2307.15818, appendix): two frames, and the five prediction tasks. Other than there,
half of the actions come behind a plan that says what is to be done by places in the frame, and some of the
web's questions are about the frames' places. Else the recipe is that of configs/tabletop.py:cofinetune.
configs/rt2_pali_3b_language_table.py:sim reads the published set of the simulator.
"""

import pathlib

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import nearest

_SCRATCH = '_scratch'
_SUITES = (
    'all',
    'blocktoblock',
    'blocktoabsolutelocation',
    'blocktoblockrelativelocation',
    'blocktorelativelocation',
    'separate',
)
ARGUMENTS = (*_SUITES, *(name + _SCRATCH for name in _SUITES))


def get_config(arg: str = 'all') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f'configs/language_table.py has no {arg!r}{nearest(arg, ARGUMENTS)}')
    config = configuration.load(
        pathlib.Path(__file__).with_name('tabletop.py'),
        'scratch' if arg.endswith(_SCRATCH) else 'cofinetune',
    ).unlock()
    config.total_steps = 4_000
    config.embodiment = 'language_table_brisk'
    config.data.update(frames=2, prompt_length=48, target_length=48)
    config.data.web.web.kinds.plan = 0.0  # those are in the tabletop's words
    config.data.robot = dict(
        language_table=dict(
            directory=f'runs/data/language_table_{arg.removesuffix(_SCRATCH)}',
            card='language_table_brisk',
            weight=1.0,
            success_only=True,
            holdout=0.01,  # share of the episodes that are kept for validation
            plan_share=0.5,
            plans='column:observation/plan',
            questions=0.5,
            tasks=dict(
                weights=dict(instruction=0.1, arm_position=0.1, time_steps=0.1, success=0.1),
                arm='observation/effector_translation',
                arm_low=(0.15, -0.3048),
                arm_high=(0.6, 0.3048),
                arm_order=(1, 0),  # y is to the right in the picture, x down
            ),
        )
    )
    return config.lock()
