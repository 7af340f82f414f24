"""RT-2-PaLI-X-5B (arXiv 2307.15818): ViT-G/14 in front of a 3B encoder-decoder, co-fine-tuned.

    python -m rt2_jax.estimate --config=configs/rt2_pali_x_5b.py --topology=v5e:16x16
    python -m rt2_jax.train --config=configs/rt2_pali_x_5b.py --workdir=DIR

From the paper (appendix E): learning rate 1e-3, batch 2048, 270,000 steps, about half of each batch
from robots, a share that is raised as training goes on.

Left open by the papers, and chosen here:
    model              PaLI-X-5B's parts are not published: ViT-G/14 (arXiv 2106.04560) and UL2-3B
                       (24 + 24 layers of mT5-XL's size), the parts of PaLI-3 (arXiv 2310.09199)
    resolution, lengths, robot share, optimizer, vocabulary: as in rt2_pali_x_55b.py
    mesh               256 chips; see BUILD_NOTES for how it was found
"""

import ml_collections

from rt2_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The locked config."""
    config = configuration.paper(total_steps=270_000, batch_size=2_048, lr=1e-3)
    config.data.robot.fractal = dict(
        directory='data/fractal20220817_data/0.1.0', card='fractal20220817_data', weight=1.0
    )
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    config.data.robot_share.update(kind='ramp', start=0.4, end=0.6, begin=0, finish=270_000)
    config.embodiment = 'fractal20220817_data'
    text = dict(
        width=2048, depth=24, heads=32, head_dim=64, mlp=5_120, activation='silu', remat='full'
    )
    config.model = dict(
        name='pali',
        dtype='bfloat16',
        vocab=256_000,
        vision=dict(width=1664, depth=48, heads=16, mlp=8_192, patch=14, remat='full'),
        encoder=text,
        decoder=text,
    )
    config.mesh.update(data=2, fsdp=-1, tensor=1)
    return config.lock()
