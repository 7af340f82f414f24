"""RT-2 in miniature: a tiny PaLI on the small web and the tabletop's episodes.

    python -m rt2_jax.train --config=configs/tabletop.py:pretrain --workdir=runs/pretrain

Arguments:
    vision      the vision tower alone learns what is where in the small web
    pretrain    the small web alone, from that tower (runs/vision); gives the next packaged tiny PaLI.
                Both need the vocabulary of every language's words:
                python -m rt2_jax.text.build_vocabulary --wide --size=4096 --output=runs/tokenizer.model
    cofinetune  robot episodes and web together from the packaged tiny PaLI (RT-2's recipe)
    finetune    robot episodes alone from the packaged tiny PaLI
    scratch     robot episodes and web from random weights
    quickstart  cofinetune, a third of it: what launch/quickstart.sh runs
    overfit     20 episodes by heart, played in their own layouts: a check of the plumbing. They are
                undisturbed: collect --episodes=20 --noise=0 --detours=0 --output=runs/data/overfit
"""

from typing import Any

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import nearest

ARGUMENTS = ('vision', 'pretrain', 'cofinetune', 'finetune', 'scratch', 'quickstart', 'overfit')
PRETRAINED = 'package:tabletop_pretrained'

# Shares of the questions to the base: categories and other languages often enough to be learnt.
_PRETRAIN_KINDS = dict(
    name=0.12,
    name_language=0.1,
    category=0.05,
    where_lone=0.09,
    where=0.21,
    where_category=0.1,
    where_language=0.14,
    where_sum=0.02,
    what=0.07,
    list=0.05,
    count=0.01,
    colour=0.03,
    yes_no=0.01,
)


def get_config(arg: str = 'cofinetune') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f'configs/tabletop.py has no {arg!r}{nearest(arg, ARGUMENTS)}')
    config = configuration.defaults()
    config.total_steps = 3_000
    config.cpu_products = 'bfloat16'
    config.action_smoothing = 6.0
    config.model = _tiny_pali()
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    if arg == 'vision':
        _web_alone(config)
        config.model = dict(
            name='classifier',
            dtype='float32',
            width=128,
            vision=_tiny_pali()['vision'],
            vocab=config.model.vocab,
        )
        # Words of all languages are pulled to one place: that of what they name.
        config.data.web.web.kinds = dict(map=0.4, map_any=0.6)
        config.data.update(prompt_length=16, target_length=37)
    elif arg == 'pretrain':
        _web_alone(config)
        config.data.web.web.kinds = _PRETRAIN_KINDS
        config.init_from, config.init_parts = 'runs/vision', ('tower', 'projection', 'embedding')
        # New parts get the full learning rate, pretrained parts less.
        config.optimizer.part_lr = {'embedding': 0.3, 'tower': 0.1, 'projection': 0.1}
    else:
        _with_robot(config)
        if arg != 'scratch':
            config.init_from = PRETRAINED
            # What knows pictures and words keeps them; what has to learn to act learns fast.
            config.optimizer.part_lr = {'embedding': 0.25, 'tower': 0.12, 'projection': 0.12}
        if arg in ('finetune', 'overfit'):
            config.data.robot_share.start = 1.0
        if arg == 'quickstart':
            config.total_steps = 1_000
        elif arg == 'overfit':
            config.total_steps = 800
            config.data.robot.tabletop.directory = 'runs/data/overfit'
    return config.lock()


def _web_alone(config: ml_collections.ConfigDict) -> None:
    """The small web in six languages, with its own vocabulary."""
    config.update(total_steps=30_000, tokenizer='runs/tokenizer.model')
    config.model.vocab = 4096  # of runs/tokenizer.model
    config.optimizer.lr = 2e-3
    config.data.web.web.update(varied=True, people=True)
    config.data.robot_share.start = 0.0


def _with_robot(config: ml_collections.ConfigDict) -> None:
    """The tabletop's episodes beside the web."""
    config.data.robot.tabletop = dict(
        directory='runs/data/tabletop',
        card='tabletop',
        weight=1.0,
        plan_share=0.5,
        questions=0.3,
        episodes=ml_collections.config_dict.placeholder(int),
        success_only=True,
        holdout=0.0,  # share of the episodes that are kept for validation
    )
    config.data.target_length = 25  # a plan and an action
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)
    # "push X to Y": by relative positions alone, which name comes first took thousands of steps.
    config.model.prompt_positions = 1.5


def _tiny_pali() -> dict[str, Any]:
    # 2.6 M parameters. All layers are unrolled: a loop over so small ones costs a CPU a quarter.
    text = dict(width=128, depth=2, heads=4, head_dim=32, mlp=384, scale=32**-0.5, unroll=2)
    return dict(
        name='pali',
        dtype='float32',
        vision=dict(
            width=128,
            depth=4,
            heads=4,
            mlp=384,
            patch=16,
            stem='pyramid',
            stem_widths=(48, 128),
            positions='sincos',
            unroll=4,
        ),
        encoder=text,
        positions='sincos',
        positions_scale=2.0,
        prompt_positions=0.0,
        tied=True,
        number_line=True,
        decoder=dict(text),
    )
