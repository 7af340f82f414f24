"""What RT-2 is compared with beside RT-1, in miniature: towers that were trained in other ways first.

    python -m rt2_jax.train --config=configs/baselines.py:vc1_pretrain --workdir=runs/vc1_pretrain
    python -m rt2_jax.train --config=configs/baselines.py:vc1 --workdir=runs/vc1

Arguments:
    vc1_pretrain     a ViT by masked autoencoding of the small web and the episodes' frames (VC-1,
                     arXiv 2303.18240); no words, no actions
    r3m_pretrain     a ResNet by time contrast and language alignment on the episodes' frames (R3M,
                     arXiv 2203.12601); words are those of the packaged tiny PaLI
    siglip_pretrain  a tower by pictures and their names, each pair a yes or no (arXiv 2303.15343)
    clip_pretrain    the same by which name it is of all (arXiv 2103.00020)
    vc1, r3m         RT-1's policy (configs/rt1.py) on the tower of runs/vc1_pretrain or r3m_pretrain,
                     which learns on with it; the sentence is one more token of the image, as RT-2
                     has it (arXiv 2307.15818, appendix). config.model.language='film' is RT-1's way.
    moo              RT-1 whose instructions have verbs alone; which things are meant is painted, one pixel
                     each, into a fourth channel (MOO, arXiv 2303.00905). Its tower is RT-1's, of
                     runs/rt1_vision (configs/rt1.py:vision). In training the episodes say where
                     things are, in evaluation the packaged tiny PaLI is asked at the first frame.

The two by names have the tower of the tiny PaLI, which can start from theirs: set config.init_from to their
runs and config.init_parts to ('tower',).
"""

from typing import Any

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

ARGUMENTS = (
    'vc1_pretrain',
    'r3m_pretrain',
    'siglip_pretrain',
    'clip_pretrain',
    'vc1',
    'r3m',
    'moo',
)
NUMBERS = 8  # of an action: terminate, six of the arm, gripper
WORDS = 'package:tabletop_pretrained'  # whose table of words stands in for sentence encoders


def get_config(arg: str = 'vc1_pretrain') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    check('argument of configs/baselines.py', arg, ARGUMENTS)
    config = configuration.defaults()
    config.update(total_steps=10_000, cpu_products='bfloat16')
    if arg == 'vc1_pretrain':
        _masked(config)
    elif arg == 'r3m_pretrain':
        _time_contrastive(config)
    elif arg in ('vc1', 'r3m', 'moo'):
        _policy(config, arg)
    else:
        _contrastive(config, arg.removesuffix('_pretrain'))
    return config.lock()


def _masked(config: ml_collections.ConfigDict) -> None:
    config.data.web.web = dict(weight=1.0, seed=0, varied=True, people=True, kinds=dict())
    config.data.robot.tabletop = _episodes()
    config.data.robot_share.start = 0.5
    config.data.target_length = 37  # of the longest list of persons, though no word is read
    config.model = dict(
        name='masked_autoencoder',
        dtype='float32',
        vision=_vit(),
        decoder=dict(width=96, depth=2, heads=4, mlp=384, unroll=2),
    )


def _policy(config: ml_collections.ConfigDict, name: str) -> None:
    config.total_steps = 2_400
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)
    config.optimizer.part_lr = {'tower': 0.2}
    config.data.update(frames=3, action_frames='all', target_length=3 * NUMBERS + 1)
    config.data.robot.tabletop = _episodes()
    config.data.robot_share.start = 1.0
    config.init_from = f'{WORDS}#embedding'
    if name == 'moo':
        config.init_from += ',runs/rt1_vision#tower'
        config.data.robot.tabletop.pointing = 'column'
        config.pointer = 'package:tabletop_policy'
    else:
        config.init_from += f',runs/{name}_pretrain#tower'
    config.model = dict(
        name='rt1',
        dtype='float32',
        **_eyes(name),
        frames=config.data.frames,
        slots=NUMBERS,
        bins=256,
        image_tokens=8,
        learner=32,
        words=128,
        ordered=True,
        decoder=dict(width=128, depth=4, heads=4, head_dim=32, mlp=384, unroll=4),
    )


def _eyes(name: str) -> dict[str, Any]:
    """What a policy sees with, and how its instruction comes to it."""
    if name == 'moo':
        return dict(tower='efficientnet', vision=_efficientnet(), points=True)
    if name == 'vc1':
        return dict(tower='vit', vision=_vit(), language='token')
    return dict(tower='resnet', vision=_resnet(), language='token')


def _efficientnet() -> dict[str, Any]:
    """That of configs/rt1.py:tabletop."""
    return dict(width_factor=0.5, depth_factor=0.35, strides=(2, 2, 1, 2, 1, 1, 1), momentum=0.95)


def _episodes() -> dict[str, Any]:
    return dict(
        directory='runs/data/tabletop',
        card='tabletop',
        weight=1.0,
        episodes=ml_collections.config_dict.placeholder(int),
        success_only=True,
        holdout=0.0,
    )


def _vit() -> dict[str, Any]:
    """VC-1's tower made small: 8 x 8 patches of 96 pixels, plain, as masking needs it."""
    return dict(
        width=160,
        depth=5,
        heads=4,
        mlp=640,
        patch=12,
        positions='sincos',
        pixels='imagenet',
        unroll=5,
    )


def _time_contrastive(config: ml_collections.ConfigDict) -> None:
    config.data.frames = 5
    config.data.robot.tabletop = _episodes() | dict(shows='progress')
    config.data.robot_share.start = 1.0
    config.init_from, config.init_parts = WORDS, ('embedding',)
    config.model = dict(
        name='time_contrastive',
        dtype='float32',
        tower='resnet',
        vision=_resnet(),
        words=128,
        reward=256,
    )


def _resnet() -> dict[str, Any]:
    """R3M's tower made small: 6 x 6 places of 96 pixels, where ResNet-50's strides leave 3 x 3."""
    return dict(
        stages=(1, 1, 1, 1), width=40, bottleneck=False, strides=(1, 2, 2, 1), momentum=0.95
    )


def _contrastive(config: ml_collections.ConfigDict, objective: str) -> None:
    # Questions whose answers say what is in the picture, and nothing else.
    kinds = dict(name=0.6, name_language=0.4)
    config.data.web.web = dict(weight=1.0, seed=0, varied=True, people=True, kinds=kinds)
    config.data.robot_share.start = 0.0
    config.model = dict(
        name='contrastive',
        dtype='float32',
        objective=objective,
        width=128,
        vision=_tiny_palis_tower(),
        text=dict(width=128, depth=2, heads=4, head_dim=32, mlp=384, scale=32**-0.5, unroll=2),
    )


def _tiny_palis_tower() -> dict[str, Any]:
    """That of configs/tabletop.py."""
    return dict(
        width=128,
        depth=4,
        heads=4,
        mlp=384,
        patch=16,
        stem='pyramid',
        stem_widths=(48, 128),
        positions='sincos',
        unroll=4,
    )
