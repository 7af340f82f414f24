"""RT-2-PaLM-E-12B (arXiv 2307.15818): ViT-4B before PaLM-8B, co-fine-tuned.

    python -m rt2_jax.estimate --config=configs/rt2_palm_e_12b.py --topology=v5e:16x16
    python -m rt2_jax.train --config=configs/rt2_palm_e_12b.py --workdir=DIR

From the paper (appendix E): learning rate 4e-4, batch 512, 1 M steps, about two thirds of each batch from
robots; the 256 least used tokens are the action bins. The model is PaLM-E's (arXiv 2303.03378): ViT-4B,
which is PaLI's ViT-e (arXiv 2209.06794, table 1), and PaLM-8B (arXiv 2204.02311, table 1): parallel
layers, one head of keys and values, SwiGLU, 256k words.

Left open by the papers, and chosen here: 224 pixels, 256 image tokens; optimizer and lengths as in
rt2_pali_x_55b.py. No public weights are of this shape.
"""

import ml_collections

from rt2_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The locked config."""
    config = configuration.paper(total_steps=1_000_000, batch_size=512, lr=4e-4)
    config.data.robot.fractal = dict(
        directory='data/fractal20220817_data/0.1.0', card='fractal20220817_data', weight=1.0
    )
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    config.data.robot_share.start = 0.66
    config.embodiment = 'fractal20220817_data'
    config.model = dict(
        name='decoder_only',
        dtype='bfloat16',
        vocab=256_000,
        bos=-1,
        separator=-1,
        scaled=False,
        vision=dict(width=1792, depth=56, heads=16, mlp=15_360, patch=14, remat='full'),
        text=dict(
            width=4096,
            depth=32,
            mlp=16_384,
            block='parallel',
            activation='silu',
            attention=dict(heads=16, kv_heads=1, head_dim=256, scale=256**-0.5),
            remat='full',
        ),
    )
    config.mesh.update(data=1, fsdp=-1, tensor=4)
    return config.lock()
