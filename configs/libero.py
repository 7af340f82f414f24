"""LIBERO by two cameras and the arm's state, from PaliGemma or T5Gemma 2, co-fine-tuned with the small web.

The data are yours: huggingface.co/datasets/openvla/modified_libero_rlds (RLDS, four suites), or LeRobot's
form of them. Weights as in configs/rt2_t5gemma2.py and configs/rt2_paligemma.py, read by rt2_jax.convert.

    python -m rt2_jax.train --config=configs/libero.py:t5gemma2-270m --workdir=runs/libero
    python -m rt2_jax.serve --workdir=runs/libero --source=libero_goal --port=8000

LIBERO itself is played by vla-eval at ws://HOST:8000/vla_eval?camera=agentview,wrist&gripper=1,-1
(rt2_jax/serving/README.md).

Or collect episodes of a scripted expert here (rt2_jax/envs/README.md), for the packaged tiny PaLI:

    python -m rt2_jax.train --config=configs/libero.py:object_tiny --workdir=runs/libero_object

Argument: object_tiny, of runs/data/libero_object; or MODEL[,DIR[,CARD]].
    MODEL   t5gemma2-270m, -1b, -4b; paligemma-3b, -2-3b, -2-10b, -2-28b; or a directory with a slash in it
            that rt2_jax.convert wrote
    DIR     the folder that has libero_{spatial,object,goal,10}_no_noops/1.0.0, by default
            data/modified_libero_rlds; or, with CARD, one data set, of LeRobot for example
    CARD    its card (python -m rt2_jax.data.draft_card). Cameras that are not called image and wrist_image
            are named, in this order: --config.data.robot.libero.cameras="('front', 'hand')"

Each suite has the ranges of its own data, so that a policy of all four acts for the one that --source names.
Chosen here: ranges from the 1st to the 99th percentile, OpenVLA's augmentation, a fiftieth of the episodes
held out. It was built and estimated, not yet trained.
"""

import pathlib
from typing import Any

import ml_collections

from rt2_jax import configuration
from rt2_jax.data.augmentation import RECIPES
from rt2_jax.nearest import check

FAMILIES = {'t5gemma2': 'rt2_t5gemma2.py', 'paligemma': 'rt2_paligemma.py'}
CAMERAS = ('image', 'wrist_image')
SUITES = ('spatial', 'object', 'goal', '10')
TINY = 'object_tiny'
ARGUMENTS = (
    't5gemma2-270m',
    TINY,
    'paligemma-3b,data/libero_lerobot,libero_10_no_noops',
)  # examples


def get_config(arg: str = ARGUMENTS[0]) -> ml_collections.ConfigDict:
    """The locked config for a model and data.

    Raises:
        ValueError: no such model.
    """
    if arg == TINY:
        return _tiny()
    model, directory, card, *more = (*arg.split(','), '', '')
    if any(more):
        raise ValueError(f'configs/libero.py: {arg!r} is not MODEL[,DIR[,CARD]]')
    config = _started_from(model).unlock()
    usual: dict[str, Any] = dict(weight=1.0, bounds='q01-q99', holdout=0.02)
    if card:
        robot = dict(libero=dict(directory=directory, card=card, cameras=CAMERAS, **usual))
    else:
        root = directory or 'data/modified_libero_rlds'
        names = {f'libero_{suite}': f'libero_{suite}_no_noops' for suite in SUITES}
        robot = {
            name: dict(directory=f'{root}/{card}/1.0.0', card=card, **usual)
            for name, card in names.items()
        }
    config.embodiment = next(iter(robot.values()))['card']
    config.data.robot = robot
    config.data.update(cameras=CAMERAS, state='q01-q99')
    config.data.weights_per = 'step'
    config.data.augment.update(RECIPES['openvla'])
    config.validation.update(every=1_000, batches=4)
    return config.lock()


def _tiny() -> ml_collections.ConfigDict:
    """The packaged tiny PaLI on what rt2_jax.envs.libero.collect wrote, by the tabletop's recipe."""
    config = configuration.load(pathlib.Path(__file__).with_name('tabletop.py'), 'cofinetune')
    config = config.unlock()
    config.total_steps = 3_000
    config.embodiment = 'libero'
    config.data.prompt_length = 64  # the state takes 8 numbers of it
    config.data.update(cameras=CAMERAS, state='q01-q99')
    config.data.robot = dict(
        libero=dict(
            directory='runs/data/libero_object',
            card='libero',
            weight=1.0,
            success_only=True,
            holdout=0.02,
        )
    )
    return config.lock()


def _started_from(model: str) -> ml_collections.ConfigDict:
    """The config of a family and size, or of converted directories."""
    family, _, size = model.partition('-')
    if '/' in model:
        family, size = 'from_weights.py', model
    else:
        family = FAMILIES[check('model of configs/libero.py', family, FAMILIES)]
    return configuration.load(pathlib.Path(__file__).with_name(family), size)
