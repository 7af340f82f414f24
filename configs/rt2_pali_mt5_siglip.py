"""RT-2 from PaLI's parts: mT5 (arXiv 2010.11934) and a SigLIP tower (2303.15343), joined anew.

    hf download google/mt5-base --local-dir weights/mt5-base                                # Apache 2.0
    hf download google/siglip-so400m-patch14-224 --local-dir weights/siglip                 # Apache 2.0
    python -m rt2_jax.convert --source=weights/mt5-base --format=t5 --output=runs/mt5-base
    python -m rt2_jax.convert --source=weights/siglip --format=siglip --output=runs/siglip
    python -m rt2_jax.train --config=configs/rt2_pali_mt5_siglip.py:base --workdir=runs/rt2-mt5-base

Arguments: small, base, large, xl, xxl (of mT5). The projection between the two begins at random, so this
needs more web data than a whole VLM does.

Chosen here: 1,001 integers are appended to mT5's words; their vectors begin at random.
"""

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

SIZES = {
    'small': dict(width=512, depth=8, heads=6, mlp=1_024),
    'base': dict(width=768, depth=12, heads=12, mlp=2_048),
    'large': dict(width=1_024, depth=24, heads=16, mlp=2_816),
    'xl': dict(width=2_048, depth=24, heads=32, mlp=5_120),
    'xxl': dict(width=4_096, depth=24, heads=64, mlp=10_240),
}


def get_config(arg: str = 'base') -> ml_collections.ConfigDict:
    """The locked config of one of `SIZES`.

    Raises:
        ValueError: another argument.
    """
    text = dict(SIZES[check('size', arg, SIZES)], head_dim=64, remat='full')
    config = configuration.from_weights(
        init_from=f'runs/mt5-{arg},runs/siglip',
        tokenizer=f'runs/mt5-{arg}/tokenizer.model',
        lr=1e-3,
    )
    config.model = dict(
        name='pali',
        dtype='bfloat16',
        vocab=251_136,  # 250,100 words and 1,001 integers, and room to split
        vision=dict(width=1152, depth=27, heads=16, mlp=4304, patch=14, remat='full'),
        encoder=text,
        decoder=text,
    )
    return config.lock()
