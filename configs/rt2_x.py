"""RT-2-X (arXiv 2310.08864): RT-2 co-fine-tuned on a mixture of Open X-Embodiment's robots.

    python -m rt2_jax.data.preview --config=configs/rt2_x.py:rtx    # shares, epochs, held-out episodes
    python -m rt2_jax.train --config=configs/rt2_x.py:rtx --workdir=DIR

Arguments: a mixture of rt2_jax.data.named_mixtures. One set's weight: --config.data.robot.NAME.weight=0.5.

From the paper: about as much web data as robot data. The model is RT-2-PaLI-X-5B's.

Left out, with a line that says so: sets without an embodiment card. Each robot has the actions of its
card, most of them an arm's eight numbers, Language-Table's X and Y.

Chosen here: Octo's weights and augmentation; 1 % of each set's episodes is held out, and their loss
measured every 2,000 steps.
"""

import pathlib

from absl import logging
import ml_collections

from rt2_jax import configuration
from rt2_jax.data import augmentation, cards, named_mixtures

DATA = 'data'
ARGUMENTS = tuple(named_mixtures.WEIGHTS)


def get_config(arg: str = 'bridge_rt1') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    base = pathlib.Path(__file__).with_name('rt2_pali_x_5b.py')
    config = configuration.load(base).unlock()
    weights = named_mixtures.weights(arg)
    without_card = [name for name in weights if name not in cards.CARDS]
    if without_card:
        logging.warning('%s without %s: no embodiment cards', arg, ', '.join(without_card))
    config.data.robot = named_mixtures.robot_sets(arg, DATA, leave_out=without_card)
    for robot_set in config.data.robot.values():
        robot_set.holdout = 0.01
    config.data.update(weights_per='step')
    config.data.robot_share.update(kind='constant', start=0.5)
    config.data.augment.update(augmentation.RECIPES['octo'])
    config.validation.update(every=2_000, batches=4)
    return config.lock()
