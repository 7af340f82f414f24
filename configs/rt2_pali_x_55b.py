"""RT-2-PaLI-X-55B (arXiv 2307.15818): ViT-22B in front of a 32B encoder-decoder, co-fine-tuned.

    python -m rt2_jax.estimate --config=configs/rt2_pali_x_55b.py --topology=v5p:8x8x8
    python -m rt2_jax.train --config=configs/rt2_pali_x_55b.py --workdir=DIR

From the paper (appendix E): learning rate 1e-3, batch 2048, 80,000 steps, about half of each batch
from robots, a share that is raised as training goes on; of WebLI the tenth whose pictures and texts
are most alike (appendix B). The model is PaLI-X's (arXiv 2305.18565): ViT-22B (arXiv 2302.05442),
50 + 50 layers of UL2's kind.

Left open by the papers, and chosen here:
    resolution 224     256 image tokens; PaLI-X goes up to 756 in its last stages
    prompt 64, target 64 tokens, of which a robot's example uses about 20 and 9
    web data           WebLI isn't public: WebDataset shards of a set like it, with `similarity` and
                       `language` in each sample's JSON, and VQAv2 as big_vision makes it, 4 to 1;
                       languages by the root of their counts
    robot share        from 0.4 to 0.6, linearly over the run
    optimizer          Adafactor (PaLI-X's), constant rate after 1,000 steps of warm-up, as T5 is
                       fine-tuned (arXiv 1910.10683); no weight decay, nothing frozen
    vocabulary         256,000 rows; the project's own tokenizer uses the first of them until
                       --config.tokenizer names another
    mesh               512 chips; see BUILD_NOTES for how it was found
"""

import ml_collections

from rt2_jax import configuration


def get_config() -> ml_collections.ConfigDict:
    """The locked config."""
    config = configuration.paper(total_steps=80_000, batch_size=2_048, lr=1e-3)
    config.data.robot.fractal = dict(
        directory='data/fractal20220817_data/0.1.0', card='fractal20220817_data', weight=1.0
    )
    config.data.web.webli = dict(
        kind='webdataset',
        directory='data/webli',
        tasks=dict(caption=1.0),
        keep_top=0.1,
        temperature=2.0,
        weight=0.8,
    )
    config.data.web.vqa = dict(
        kind='tfds', directory='data/vqa/3.0.0', card='vqa', tasks=dict(vqa=1.0), weight=0.2
    )
    config.data.robot_share.update(kind='ramp', start=0.4, end=0.6, begin=0, finish=80_000)
    config.embodiment = 'fractal20220817_data'
    text = dict(
        width=4096, depth=50, heads=16, head_dim=256, mlp=16_384, activation='silu', remat='full'
    )
    config.model = dict(
        name='pali',
        dtype='bfloat16',
        vocab=256_000,
        vision=dict(
            width=6144, depth=48, heads=48, mlp=24_576, patch=14, block='parallel', remat='full'
        ),
        encoder=text,
        decoder=text,
    )
    config.mesh.update(data=1, fsdp=-1, tensor=4)
    return config.lock()
