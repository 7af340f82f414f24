"""Out again and in again: what we write `transformers` loads, and what we then read is what we had."""

import numpy as np
import pytest

from rt2_jax import convert

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')

SIZE = 24
VISION = dict(
    model_type='siglip_vision_model', hidden_size=36, intermediate_size=50, num_hidden_layers=2,
    num_attention_heads=3, image_size=SIZE, patch_size=6, vision_use_head=False,
)  # fmt: skip
VIT = {k: v for k, v in VISION.items() if k not in ('model_type', 'vision_use_head')}
TEXT = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
    num_key_value_heads=2, head_dim=10, vocab_size=97, pad_token_id=0, eos_token_id=1, bos_token_id=2,
)  # fmt: skip
LATER = TEXT | dict(sliding_window=6, query_pre_attn_scalar=20)  # than Gemma 1
T5 = dict(
    d_model=24, d_ff=44, vocab_size=97, num_layers=3, num_decoder_layers=2, num_heads=3, d_kv=10,
    feed_forward_proj='gated-silu', tie_word_embeddings=False, decoder_start_token_id=0,
)  # fmt: skip


def paligemma(kind):
    text = (TEXT if kind == 'gemma' else LATER) | dict(model_type=kind)
    return dict(text_config=text, vision_config=VISION, projection_dim=24, image_token_index=97)


# Format, and its class in transformers with what its config says.
FAMILIES = {
    't5': ('t5', 'T5ForConditionalGeneration', T5),
    'siglip': ('siglip', 'SiglipVisionModel', VISION),
    'vit': ('vit', 'ViTModel', VIT | dict(layer_norm_eps=1e-3)),
    't5gemma2': (
        't5gemma2',
        'T5Gemma2ForConditionalGeneration',
        dict(
            encoder=dict(text_config=LATER, vision_config=VISION, mm_tokens_per_image=4), decoder=LATER
        ),
    ),
    'paligemma': ('paligemma', 'PaliGemmaForConditionalGeneration', paligemma('gemma')),
    'paligemma 2': ('paligemma', 'PaliGemmaForConditionalGeneration', paligemma('gemma2')),
}  # fmt: skip


def inputs(family, model):
    """What is asked of a model, with a frame before the words where both go in together."""
    rng = np.random.default_rng(0)
    pixels = torch.tensor(rng.normal(size=(2, 3, SIZE, SIZE)), dtype=torch.float32)
    ids = torch.tensor(rng.integers(3, 90, (2, 12)))
    if 'vision_config' in FAMILIES[family][2]:
        ids = torch.cat([torch.full((2, 16), model.config.image_token_id), ids], 1)
        return dict(
            input_ids=ids, attention_mask=torch.ones_like(ids), token_type_ids=torch.zeros_like(ids),
            pixel_values=pixels,
        )  # fmt: skip
    if family in ('siglip', 'vit'):
        return dict(pixel_values=pixels)
    return dict(input_ids=ids, decoder_input_ids=ids[:, :5])


@pytest.mark.parametrize('family', FAMILIES)
def test_out_and_in_again(family, tmp_path):
    name, kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    kind = getattr(transformers, kind)
    theirs = kind(kind.config_class(**settings)).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    theirs.save_pretrained(tmp_path / 'theirs')

    for source, output in (('theirs', 'ours'), ('back', 'again')):
        convert.import_(tmp_path / source, name, tmp_path / output, None)
        if source == 'theirs':
            convert.export(tmp_path / 'ours', name, tmp_path / 'back')
    files = [tmp_path / folder / 'params.safetensors' for folder in ('ours', 'again')]
    assert files[0].read_bytes() == files[1].read_bytes()

    back, about = kind.from_pretrained(tmp_path / 'back', output_loading_info=True)
    assert not about['unexpected_keys'] and not about['mismatched_keys']
    with torch.no_grad():
        found, expected = (model.eval()(**inputs(family, model))[0] for model in (back, theirs))
    assert expected.std() > 0.1
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
