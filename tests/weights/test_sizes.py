"""Every released size: each tensor of theirs becomes a parameter of ours, counted without memory."""

import json
import pathlib
import runpy

import numpy as np
import pytest

from rt2_jax.checkpoints import param_shapes
from rt2_jax.weights import formats, rules, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')

CONFIGS = pathlib.Path(__file__).parents[2] / 'configs'
# Billions of parameters with the tower (arXiv 2512.14856: 370 M, 1.7 B and 7 B without its 0.42 B;
# 2407.07726 and 2412.03555: 3, 10 and 28 B; 2010.11934, table 1, without a tower).
BILLIONS = {
    ('rt2_t5gemma2', '270m'): 0.37 + 0.42, ('rt2_t5gemma2', '1b'): 1.7 + 0.42,
    ('rt2_t5gemma2', '4b'): 7.1 + 0.42,
    ('rt2_paligemma', '3b'): 2.92, ('rt2_paligemma', '2-3b'): 3.03, ('rt2_paligemma', '2-10b'): 9.66,
    ('rt2_paligemma', '2-28b'): 27.7,
    ('rt2_pali_mt5_siglip', 'small'): 0.30, ('rt2_pali_mt5_siglip', 'base'): 0.58,
    ('rt2_pali_mt5_siglip', 'large'): 1.23, ('rt2_pali_mt5_siglip', 'xl'): 3.74,
    ('rt2_pali_mt5_siglip', 'xxl'): 12.9,
}  # fmt: skip
FAMILY = {'rt2_t5gemma2': 't5gemma2', 'rt2_paligemma': 'paligemma', 'rt2_pali_mt5_siglip': 't5'}
# What transformers calls a tensor in memory and on disk.
ON_DISK = {
    'model.encoder.text_model.': 'model.encoder.',
    'model.language_model.': 'language_model.model.',
    'model.multi_modal_projector.': 'multi_modal_projector.',
    'model.vision_tower.': 'vision_tower.',
    'lm_head.weight': 'lm_head.weight',
}
CLASSES = {
    't5': 'T5ForConditionalGeneration',
    't5gemma2': 'T5Gemma2ForConditionalGeneration',
    'paligemma': 'PaliGemmaForConditionalGeneration',
}


def config_of(name, size):
    return runpy.run_path(CONFIGS / f'{name}.py')['get_config'](size)


def on_disk(name):
    start = next((s for s in ON_DISK if name.startswith(s)), '')
    return ON_DISK.get(start, '') + name.removeprefix(start)


@pytest.mark.parametrize('name, size', BILLIONS)
def test_their_tensors_are_our_parameters(name, size):
    family = FAMILY[name]
    model = json.loads(json.dumps(config_of(name, size).model.to_dict()))
    if family == 't5':
        model['vocab'] = 250_112  # as published; ours has room for integers behind it
        model = {part: model[part] for part in ('vocab', 'encoder', 'decoder')}
    kind = getattr(transformers, CLASSES[family])
    told = formats.FORMATS[family].theirs(model)
    told.pop('architectures'), told.pop('model_type')
    with torch.device('meta'):
        theirs = kind(kind.config_class.from_dict(told))
    if family == 'paligemma':
        theirs.lm_head = torch.nn.Identity()
    found = {
        on_disk(n): tensors.Tensor(on_disk(n), tuple(x.shape), np.dtype(np.float32), 'meta', None)
        for n, x in theirs.state_dict().items()
    }
    shapes = param_shapes.named_shapes(model, 224)
    ours = rules.imported(formats.FORMATS[family].rules(model, found), found, shapes)
    count = sum(np.prod(x.shape, dtype=np.int64) for x in ours.values())
    assert count == sum(np.prod(shapes[n], dtype=np.int64) for n in ours)
    assert count / 1e9 == pytest.approx(BILLIONS[name, size], rel=0.04)
