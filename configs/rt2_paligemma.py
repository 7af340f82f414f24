"""RT-2 from PaliGemma: decoder-only and prefix-LM, as RT-2-PaLM-E is; co-fine-tuned on the tabletop.

    hf download google/paligemma-3b-pt-224 --local-dir weights/paligemma-3b    # Gemma's licence
    python -m rt2_jax.convert --source=weights/paligemma-3b --format=paligemma --output=runs/paligemma-3b
    python -m rt2_jax.train --config=configs/rt2_paligemma.py:3b --workdir=runs/rt2-paligemma-3b

Arguments: 3b (PaliGemma, arXiv 2407.07726), 2-3b, 2-10b, 2-28b (PaliGemma 2, arXiv 2412.03555). big_vision's
`.npz` files are read with --format=paligemma_npz.

Chosen here: 224 pixels; the 256 least used words are the action bins.
"""

import ml_collections

from rt2_jax import configuration
from rt2_jax.nearest import check

SIZES = {
    '3b': dict(
        width=2048, depth=18, mlp=16_384, block='gemma',
        attention=dict(heads=8, kv_heads=1, head_dim=256, scale=256**-0.5),
    ),
    '2-3b': dict(
        width=2304, depth=26, mlp=9_216, block='gemma2',
        attention=dict(heads=8, kv_heads=4, head_dim=256, scale=256**-0.5),
    ),
    '2-10b': dict(
        width=3584, depth=42, mlp=14_336, block='gemma2',
        attention=dict(heads=16, kv_heads=8, head_dim=256, scale=256**-0.5),
    ),
    '2-28b': dict(
        width=4608, depth=46, mlp=36_864, block='gemma2',
        attention=dict(heads=32, kv_heads=16, head_dim=128, scale=144**-0.5),
    ),
}  # fmt: skip


def get_config(arg: str = '3b') -> ml_collections.ConfigDict:
    """The locked config of one of `SIZES`.

    Raises:
        ValueError: another argument.
    """
    text = SIZES[check('size', arg, SIZES)]
    config = configuration.from_weights(
        init_from=f'runs/paligemma-{arg}',
        tokenizer=f'runs/paligemma-{arg}/tokenizer.model',
        lr=1e-4,
    )
    config.model = dict(
        name='decoder_only',
        dtype='bfloat16',
        vocab=257_216,  # of the Hugging Face files; 257,152 in big_vision's
        vision=dict(width=1152, depth=27, heads=16, mlp=4304, patch=14, remat='full'),
        text=dict(text, remat='full'),
    )
    if text['block'] == 'gemma2':
        config.model.text.attention.cap = 50.0
        config.model.text.update(every=2, window=4096)
        config.model.cap = 30.0
    return config.lock()
