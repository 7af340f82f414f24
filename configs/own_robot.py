"""Your robot, co-fine-tuned with the small web from the packaged tiny PaLI: on a laptop, without a GPU.

    python -m rt2_jax.data.draft_card --dataset=DIR --output=my_arm.json
    python -m rt2_jax.data.inspect --dataset=DIR --card=my_arm.json --output=runs/inspected
    python -m rt2_jax.train --config=configs/own_robot.py:DIR,my_arm.json --workdir=runs/mine
    python -m rt2_jax.evaluate --workdir=runs/mine --suite=held_out --output=runs/held_out.json
    python -m rt2_jax.serve --workdir=runs/mine --port=8000

Argument: DIR,CARD: the episodes (RLDS or LeRobot; a folder or a bucket) and their card, a file or a name.

A tenth of the episodes is held out. Failed ones are learnt from, too; where the card has `success`,
--config.data.robot.own.success_only=true leaves them out. Another camera of the card is
--config.data.robot.own.camera=1. Frames are seen at 96 pixels: what is smaller than 10 of them is hardly
seen. For larger models put `config.data.robot.own` of this file into theirs.
"""

import pathlib

import ml_collections

from rt2_jax import configuration

ARGUMENTS = ('runs/data/tabletop,tabletop',)  # an example: any DIR,CARD will do


def get_config(arg: str = ARGUMENTS[0]) -> ml_collections.ConfigDict:
    """The locked config for a data set and its card.

    Raises:
        ValueError: the argument is not DIR,CARD.
    """
    directory, _, card = arg.rpartition(',')
    if not directory or not card:
        raise ValueError(
            f'configs/own_robot.py: {arg!r} is not DIR,CARD: the folder of the episodes, a comma, and '
            'the file or the name of their card (python -m rt2_jax.data.draft_card writes one)'
        )
    config = configuration.load(
        pathlib.Path(__file__).with_name('tabletop.py'), 'cofinetune'
    ).unlock()
    config.total_steps = 1_000
    config.checkpoint_every = 250
    config.embodiment = card
    config.data.robot = dict(
        own=dict(
            directory=directory,
            card=card,
            weight=1.0,
            camera=0,
            success_only=False,
            holdout=0.1,  # share of the episodes; from 1 up their number
        )
    )
    config.data.prompt_length = 48  # people's instructions are longer than the tabletop's
    config.validation.update(every=250, batches=2)
    return config.lock()
