"""RT-2-PaLI-3B on Language-Table (arXiv 2307.15818, section 4.4 and appendix): ViT-G/14 and mT5-Large.

    python -m rt2_jax.estimate --config=configs/rt2_pali_3b_language_table.py --topology=v5e:4x4
    python -m rt2_jax.train --config=configs/rt2_pali_3b_language_table.py --workdir=DIR

Arguments:
    real   the set of the real robot and its hindsight labels, the default
    sim    that of the simulator, which rt2_jax.evaluate plays (--suite=language_table/blocktoblock)

From the paper (appendix E): learning rate 1e-3, batch 128, 300,000 steps, two consecutive frames,
Language-Table's five prediction tasks alone, "X Y" actions. The model is PaLI-3B's (arXiv 2209.06794,
table 1).

Left open by the papers, and chosen here:
    resolution 224     256 image tokens a frame, 512 in all
    tasks              half of a batch acts, and the other four have an eighth each; their wording is
                       in rt2_jax/text/prompts.py, what they show in rt2_jax/data/robot/prediction_tasks.py
    success            each episode does what its instruction says: the labels were given in hindsight
    arm position       on the table's bounds (google-research/language-table, constants.py), metres
    prompt 64, target 64 tokens    an instruction is also an answer
    optimizer          as in rt2_pali_x_55b.py
    vocabulary         mT5's 250,112 rows; the project's own tokenizer uses the first of them until
                       --config.tokenizer names another
    mesh               16 chips; see BUILD_NOTES for how it was found
"""

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

ARGUMENTS = {
    'real': 'language_table',
    'sim': 'language_table_sim',
}  # the card of each, and its folder


def get_config(arg: str = 'real') -> ml_collections.ConfigDict:
    """The locked config of one of `ARGUMENTS`.

    Raises:
        ValueError: another argument.
    """
    card = ARGUMENTS[check('argument of configs/rt2_pali_3b_language_table.py', arg, ARGUMENTS)]
    config = configuration.paper(total_steps=300_000, batch_size=128, lr=1e-3)
    config.data.update(frames=2)
    config.data.robot.language_table = dict(
        directory=f'data/{card}/0.0.1',
        card=card,
        weight=1.0,
        tasks=dict(
            weights=dict(instruction=0.25, arm_position=0.25, time_steps=0.25, success=0.25),
            arm='observation/effector_translation',
            arm_low=(0.15, -0.3048),
            arm_high=(0.6, 0.3048),
            arm_order=(1, 0),  # y is to the right in the picture, x down
            success='always',
        ),
    )
    config.data.robot_share.update(start=1.0)
    config.embodiment = card
    text = dict(width=1024, depth=24, heads=16, head_dim=64, mlp=2_816, remat='full')
    config.model = dict(
        name='pali',
        dtype='bfloat16',
        vocab=250_112,
        vision=dict(width=1664, depth=48, heads=16, mlp=8_192, patch=14, remat='full'),
        encoder=text,
        decoder=text,
    )
    config.mesh.update(data=1, fsdp=-1, tensor=1)
    return config.lock()
