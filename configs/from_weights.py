"""RT-2 from any weights that rt2_jax.convert has read: co-fine-tuned on the tabletop.

    python -m rt2_jax.convert --source=weights/ul2 --format=t5 --output=runs/ul2
    python -m rt2_jax.convert --source=weights/vit.npz --format=big_vision --output=runs/vit
    python -m rt2_jax.train --config=configs/from_weights.py:runs/ul2,runs/vit --workdir=runs/rt2-ul2

Argument: the converted directories by comma: one that is a whole vision-language model, or a language
model and a tower, between which the projection begins at random. Sizes, image size and tokenizer are
those of the directories. For the sizes that are published, the other configs say what they are.
"""

import json
from typing import Any

from etils import epath
import ml_collections

from rt2_jax import configuration
from rt2_jax.text.tokenizer import Tokenizer

PARTS = 'vision', 'encoder', 'decoder', 'text'


def get_config(arg: str = '') -> ml_collections.ConfigDict:
    """The locked config of a run that starts from converted directories.

    Raises:
        ValueError: no directory, one that is not converted, or together they are no model.
    """
    if not arg:
        raise ValueError('say which directories: --config=configs/from_weights.py:DIR[,DIR]')
    model: dict[str, Any] = dict(name='pali', dtype='bfloat16')
    tokenizer, image_size = None, 224
    for directory in map(epath.Path, arg.split(',')):
        record = directory / 'model.json'
        if not record.exists():
            raise ValueError(
                f'{record} is missing: {directory} is nothing that rt2_jax.convert wrote'
            )
        model |= json.loads(record.read_text())['model']
        image_size = model.pop('image_size', image_size)
        if (directory / 'tokenizer.model').exists():
            tokenizer = directory / 'tokenizer.model'
    present = [part for part in PARTS if part in model]
    if tokenizer is None or 'vision' not in present or len(present) < 2:
        raise ValueError(
            f'{arg} has {", ".join(present)} and {"a" if tokenizer else "no"} tokenizer.model; a model '
            'needs a tower (vision), a language model (encoder and decoder, or text) and its tokenizer'
        )
    config = configuration.from_weights(init_from=arg, tokenizer=str(tokenizer), lr=1e-3)
    config.data.image_size = image_size
    for part in present:
        model[part]['remat'] = 'full'
    # Rows for the tokens that the tokenizer has beside the published ones, rounded up to split evenly.
    model['vocab'] = max(model['vocab'], -(-Tokenizer.load(tokenizer).vocab_size // 128) * 128)
    config.model = model
    return config.lock()
