r"""RT-2 from T5Gemma 2 (arXiv 2512.14856), the open model nearest to PaLI-X: co-fine-tuned on the tabletop.

    hf download google/t5gemma-2-270m-270m --local-dir weights/t5gemma2-270m    # Gemma's licence
    python -m rt2_jax.convert --source=weights/t5gemma2-270m --format=t5gemma2 --image_size=224 \
        --output=runs/t5gemma2-270m
    python -m rt2_jax.train --config=configs/rt2_t5gemma2.py:270m --workdir=runs/rt2-t5gemma2-270m

Arguments: 270m, 1b, 4b (each stack's size). Sizes are those of the published config.json files, which
are Gemma 3's (arXiv 2503.19786).

Chosen here: frames of 224 pixels, so that 256 patches are 256 tokens and none is averaged away (published:
896 pixels, 4,096 patches); the 256 least used words are the action bins, as in RT-2-PaLM-E.
"""

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

# `global_stretch`: the factor by which the rotary positions of global layers are slowed down.
SIZES = {
    '270m': dict(
        width=640, depth=18, mlp=2048, heads=4, kv_heads=1, window=512, global_stretch=1.0
    ),
    '1b': dict(width=1152, depth=26, mlp=6912, heads=4, kv_heads=1, window=512, global_stretch=1.0),
    '4b': dict(
        width=2560, depth=34, mlp=10240, heads=8, kv_heads=4, window=1024, global_stretch=8.0
    ),
}


def get_config(arg: str = '270m') -> ml_collections.ConfigDict:
    """The locked config of one of `SIZES`.

    Raises:
        ValueError: another argument.
    """
    size = SIZES[check('size', arg, SIZES)]
    config = configuration.from_weights(
        init_from=f'runs/t5gemma2-{arg}', tokenizer=f'runs/t5gemma2-{arg}/tokenizer.model', lr=1e-4
    )
    stack = dict(
        width=size['width'],
        depth=size['depth'],
        mlp=size['mlp'],
        attention=dict(
            heads=size['heads'],
            kv_heads=size['kv_heads'],
            head_dim=256,
            scale=256**-0.5,
            qk_norm=True,
            cap=0.0,
        ),
        every=6,
        window=size['window'],
        bases=(10_000.0, 1_000_000.0),
        stretches=(1.0, size['global_stretch']),
        remat='full',
    )
    config.model = dict(
        name='t5gemma2',
        dtype='bfloat16',
        vocab=262_144,
        image_tokens=256,
        before_image=(2, 108, 255_999),
        after_image=(256_000, 108),
        end_of_image=256_000,
        start=2,
        cap=0.0,
        vision=dict(width=1152, depth=27, heads=16, mlp=4304, patch=14, remat='full'),
        encoder=stack,
        decoder=stack,
    )
    return config.lock()
