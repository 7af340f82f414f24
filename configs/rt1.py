"""RT-1 (arXiv 2212.06817), RT-1-X (2310.08864), and RT-1 in miniature: what RT-2 is compared with.

    python -m rt2_jax.train --config=configs/rt1.py:vision --workdir=runs/rt1_vision
    python -m rt2_jax.train --config=configs/rt1.py:tabletop --workdir=runs/rt1
    python -m rt2_jax.convert --source=CHECKPOINT --format=rt1_jax --output=weights/rt1x

Arguments:
    vision    the twin's tower alone names what is in the small web's pictures, as RT-1's did in ImageNet's
    tabletop  a twin of a few million parameters on the tabletop's episodes, and on no web; its tower is that
              of runs/rt1_vision
    rt1       35 M parameters, 6 frames, as robotics_transformer has it; on fractal
    rt1x      57 M parameters, 15 frames, as open_x_embodiment has it; on fractal

From the public code: sizes, Adam at a constant 1e-4, the loss over all frames of a window. Other than there:
the sentence is the mean of a frozen table's words, as long as the data's own vectors are not read
(`natural_language_embedding`); of the 11 slots a card's 8 numbers are the first;
a gradient of NaN ends the run; frames are not cropped at random unless
config.data.augment says so.
"""

from typing import Any

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

ARGUMENTS = ('vision', 'tabletop', 'rt1', 'rt1x')
NUMBERS = 8  # terminate, six of the arm, gripper


def get_config(arg: str = 'tabletop') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    check('argument of configs/rt1.py', arg, ARGUMENTS)
    config = configuration.defaults()
    if arg == 'vision':
        return _vision(config)
    config.data.action_frames = 'all'
    config.data.robot_share.start = 1.0
    if arg == 'tabletop':
        _tabletop(config)
    else:
        _published(config, arg == 'rt1x')
    config.data.target_length = config.data.frames * NUMBERS + 1
    return config.lock()


def _vision(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """What is where in the web's pictures, as configs/tabletop.py:vision asks it of RT-2's tower.

    In English alone, which is all that RT-1 reads.
    """
    config.update(total_steps=4_000, cpu_products='bfloat16')
    config.data.web.web = dict(
        weight=1.0, seed=0, varied=True, people=True, kinds=dict(map=1.0, map_any=0.0)
    )
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)
    config.data.robot_share.start = 0.0
    config.data.update(prompt_length=16, target_length=37)
    # The words that RT-1 has, so that what is seen points to what is said.
    config.init_from, config.init_parts = 'package:tabletop_pretrained', ('embedding',)
    config.model = dict(
        name='classifier',
        dtype='float32',
        width=128,
        tower='efficientnet',
        sentence=2 * 128,  # of RT-1's words, in order
        vision=_eyes(),
    )
    return config.lock()


def _eyes() -> dict[str, Any]:
    """6 x 6 places of 96 pixels, where B0's strides leave 3 x 3.

    They are reached early: on a CPU large maps cost most.
    """
    return dict(width_factor=0.5, depth_factor=0.35, strides=(2, 2, 1, 2, 1, 1, 1), momentum=0.95)


def _tabletop(config: ml_collections.ConfigDict) -> None:
    config.total_steps = 2_400
    config.cpu_products = 'bfloat16'
    # As RT-2's (configs/tabletop.py): what knows pictures keeps them, what has to learn to act learns fast.
    config.optimizer.update(name='muon', lr=6e-3, warmup=40)
    config.optimizer.part_lr = {'tower': 0.2}
    config.data.frames = 3
    config.data.robot.tabletop = dict(
        directory='runs/data/tabletop',
        card='tabletop',
        weight=1.0,
        episodes=ml_collections.config_dict.placeholder(int),
        success_only=True,
        holdout=0.0,
    )
    # The words of the tiny PaLI that RT-2 starts from: they know what is alike.
    config.init_from = 'package:tabletop_pretrained#embedding,runs/rt1_vision#tower'
    config.model = dict(
        name='rt1',
        dtype='float32',
        frames=config.data.frames,
        slots=NUMBERS,
        bins=256,
        image_tokens=8,
        learner=32,
        words=128,
        ordered=True,
        vision=_eyes(),
        decoder=dict(width=128, depth=4, heads=4, head_dim=32, mlp=384, unroll=4),
    )


def _published(config: ml_collections.ConfigDict, is_x: bool) -> None:
    config.update(total_steps=400_000, batch_size=1_024, checkpoint_every=2_000)
    config.data.update(
        image_size=300, frames=15 if is_x else 6, prompt_length=64, threads=32, read_ahead=4
    )
    config.data.robot.fractal = dict(
        directory='data/fractal20220817_data/0.1.0', card='fractal20220817_data', weight=1.0
    )
    config.embodiment = 'fractal20220817_data'
    config.optimizer.update(
        lr=1e-4, schedule='constant', warmup=0, weight_decay=0.0, clip=0.0, b2=0.999, eps=1e-7
    )
    config.model = _rt1x() if is_x else _rt1()


def _rt1() -> dict[str, Any]:
    return dict(
        name='rt1',
        dtype='bfloat16',
        frames=6,
        slots=11,
        numbers=NUMBERS,
        bins=256,
        image_tokens=8,
        mask='images_and_slots',
        dead_embedding=True,  # so that public weights fit to the last one
        vision=dict(padding='even'),
        decoder=dict(width=512, depth=8, heads=8, head_dim=128, mlp=512, hidden='linear'),
    )


def _rt1x() -> dict[str, Any]:
    return dict(
        name='rt1',
        dtype='bfloat16',
        frames=15,
        slots=11,
        numbers=NUMBERS,
        bins=512,
        image_tokens=81,
        mask='images',
        vision=dict(padding='same'),
        decoder=dict(width=512, depth=8, heads=8, head_dim=256, mlp=512, hidden='swiglu'),
    )
