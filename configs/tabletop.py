"""RT-2 in miniature: a tiny PaLI on the small web and the tabletop's episodes.

    python -m rt2_jax.train --config=configs/tabletop.py:pretrain --workdir=runs/pretrain

Arguments:
    vision      the vision tower alone learns what is where in the small web, going on from the packaged one
    pretrain    the small web alone, going on from the packaged tiny PaLI, or from a tower of vision_small;
                gives the next packaged tiny PaLI
    cofinetune  robot episodes and web together from the packaged tiny PaLI (RT-2's recipe), and questions
                about frames of other tables, cameras and lights; scratch, one_pass and palm_e ask them, too:
                collect --suite=elsewhere --episodes=3000 --output=runs/data/elsewhere
    finetune    robot episodes alone from the packaged tiny PaLI
    scratch     robot episodes and web from random weights
    *_small     the same five with 0.7 M parameters in place of 2.4 M, for the ablation of sizes. No small
                base is packaged: vision_small and pretrain_small make it
    one_pass    cofinetune, all numbers of an action decided at once
    palm_e      cofinetune with PaLM-E's kind of model, a decoder alone, whose 256 least used words gave
                their tokens to actions; palm_e_pretrain makes its base (runs/palm_e_pretrain) from the
                packaged tower. Both need the vocabulary:
                python -m rt2_jax.text.build_vocabulary --integers=overwrite --output=runs/overwritten.model
    quickstart  cofinetune, a third of it: what launch/quickstart.sh runs
    overfit     20 episodes by heart, played in their own layouts: a check of the plumbing. They are
                undisturbed: collect --episodes=20 --noise=0 --detours=0 --output=runs/data/overfit
"""

from collections.abc import Mapping
from typing import Any

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import nearest

_SMALL = '_small'
_WITH_SMALL = ('vision', 'pretrain', 'cofinetune', 'finetune', 'scratch')
ARGUMENTS = (
    *_WITH_SMALL,
    'one_pass',
    'palm_e_pretrain',
    'palm_e',
    'quickstart',
    'overfit',
    *(name + _SMALL for name in _WITH_SMALL),
)
_AS = {'palm_e_pretrain': 'pretrain', 'palm_e': 'cofinetune'}  # whose recipes these have
PRETRAINED = 'package:tabletop_pretrained'

# Shares of the web's questions: other words than English names, and plans, often enough to be learnt.
_WEB_KINDS = dict(
    name=0.12,
    name_language=0.1,
    category=0.03,
    where_lone=0.03,
    where=0.12,
    where_category=0.05,
    where_language=0.07,
    where_sum=0.04,
    where_colour=0.08,
    where_use=0.04,
    what=0.08,
    list=0.04,
    count=0.01,
    colour=0.04,
    yes_no=0.01,
    plan=0.14,
)


def get_config(arg: str = 'cofinetune') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    if arg not in ARGUMENTS:
        raise ValueError(f'configs/tabletop.py has no {arg!r}{nearest(arg, ARGUMENTS)}')
    small, arg = arg.endswith(_SMALL), arg.removesuffix(_SMALL)
    palm_e, arg = arg in _AS, _AS.get(arg, arg)
    config = configuration.defaults()
    config.total_steps = 3_600
    config.cpu_products = 'bfloat16'
    config.action_smoothing = 6.0
    config.model = _tiny_pali(small)
    config.data.web.web = dict(weight=1.0, seed=0, kinds=_WEB_KINDS, varied=True, people=True)
    if arg in ('vision', 'pretrain'):
        _web_alone(config)
    if arg == 'vision':
        config.model = dict(
            name='classifier',
            dtype='float32',
            width=config.model.encoder.width,
            vision=_tiny_pali(small)['vision'],
        )
        # Words of all languages are pulled to one place: that of what they name.
        config.data.web.web.kinds = dict(map=0.4, map_any=0.6)
        if not small:
            config.init_from, config.init_parts = PRETRAINED, ('tower', 'projection')
        config.data.update(prompt_length=16, target_length=37)
    elif arg == 'pretrain':
        config.init_from = PRETRAINED
        # What knows pictures and words keeps them.
        config.optimizer.part_lr = {'embedding': 0.3, 'tower': 0.3, 'projection': 0.3}
        if small:
            parts = [f'runs/vision_small#{part}' for part in ('tower', 'projection', 'embedding')]
            config.init_from = ','.join(parts)
    else:
        _with_robot(config)
        if arg != 'scratch':
            config.init_from = 'runs/pretrain_small' if small else PRETRAINED
            # The same, and what has to learn to act learns fast.
            config.optimizer.part_lr = {'embedding': 0.25, 'tower': 0.12, 'projection': 0.12}
        if arg in ('finetune', 'overfit'):
            config.data.robot_share.start = 1.0
        elif arg != 'quickstart':
            _ask_elsewhere(config)
        config.one_pass = arg == 'one_pass'
        if arg == 'quickstart':
            config.total_steps = 1_000
        elif arg == 'overfit':
            config.total_steps = 800
            config.data.robot.tabletop.directory = 'runs/data/overfit'
    if palm_e:
        _palm_e(config, arg)
    return config.lock()


def _palm_e(config: ml_collections.ConfigDict, recipe: str) -> None:
    """A decoder and overwritten tokens in place of the tiny PaLI and its vocabulary."""
    config.tokenizer = 'runs/overwritten.model'
    config.data.target_length += 6  # most numbers of places are two tokens, see build_vocabulary.py
    if recipe == 'pretrain':
        # Words of another vocabulary, and what leads to them, start anew.
        config.init_from, config.init_parts = PRETRAINED, ('tower',)
        config.optimizer.part_lr = {'tower': 0.1}
    else:
        config.init_from = 'runs/palm_e_pretrain'
    config.model = _tiny_palm_e(config.model)


def _web_alone(config: ml_collections.ConfigDict) -> None:
    """The small web, and no robot."""
    config.total_steps = 4_000
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)
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
    config.data.prompt_length = 32  # room for what people ask for
    config.data.target_length = 30  # a plan and an action
    # Acting starts with a plan, in whatever words it is asked for.
    config.data.web.web.kinds.plan = 0.3
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)


def _ask_elsewhere(config: ml_collections.ConfigDict) -> None:
    """Questions about frames of other tables, cameras and lights; nobody learns their actions.

    On strange tables the policy knew where the tiles are, from the web, and not where the gripper is and
    how high.
    """
    config.data.robot.elsewhere = dict(
        directory='runs/data/elsewhere', card='tabletop', weight=0.0, questions=0.8
    )


def _tiny_pali(small: bool) -> dict[str, Any]:
    # 2.4 M parameters, or 0.73 M. All layers are unrolled: a loop over so small ones costs a CPU a quarter.
    width, heads = (64, 2) if small else (128, 4)
    text = dict(
        width=width, depth=2, heads=heads, head_dim=32, mlp=3 * width, scale=32**-0.5, unroll=2
    )
    return dict(
        name='pali',
        dtype='float32',
        vision=dict(
            width=width,
            depth=4,
            heads=heads,
            mlp=3 * width,
            patch=16,
            stem='pyramid',
            stem_widths=(width * 3 // 8, width),
            positions='sincos',
            unroll=4,
        ),
        encoder=text,
        positions='sincos',
        positions_scale=2.0,
        # "push X to Y": by relative positions alone, which name comes first took thousands of steps.
        prompt_positions=1.5,
        tied=True,
        number_line=True,
        decoder=dict(text),
    )


def _tiny_palm_e(pali: Mapping[str, Any]) -> dict[str, Any]:
    """PaLM's layers, as in rt2_palm_e_12b.py, and as many parameters, tower and places as a tiny PaLI has."""
    width, head_dim = pali['encoder']['width'], pali['encoder']['head_dim']
    attention = dict(heads=width // head_dim, kv_heads=1, head_dim=head_dim, scale=head_dim**-0.5)
    return dict(
        name='decoder_only',
        dtype='float32',
        vocab=4096,  # of runs/overwritten.model
        bos=-1,
        separator=-1,
        scaled=False,
        vision=pali['vision'],
        text=dict(
            width=width,
            depth=5,
            mlp=3 * width,
            block='parallel',
            activation='silu',
            attention=attention,
            unroll=5,
        ),
        positions='sincos',
        prompt_positions=pali['prompt_positions'],
        number_line=True,
    )
