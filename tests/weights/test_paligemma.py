"""PaliGemma 1 and 2: logits, looks and continuations are transformers', and both public layouts are one."""

import json

import jax
import numpy as np
import parity
import pytest

from rt2_jax.models import backbone
from rt2_jax.weights import paligemma, paligemma_npz, rules, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')


VOCAB, SIZE, SOFT, SEPARATOR = 97, 24, 90, 8
KINDS = {
    'gemma': dict(
        num_key_value_heads=1, hidden_activation='gelu_pytorch_tanh',
        rope_parameters=dict(rope_type='default', rope_theta=50.0),
    ),
    'gemma2': dict(
        num_key_value_heads=2, sliding_window=6, query_pre_attn_scalar=20, attn_logit_softcapping=3.0,
        final_logit_softcapping=2.0,
    ),
}  # fmt: skip


@pytest.fixture(scope='module', params=KINDS)
def theirs(request):
    torch.manual_seed(0)
    text = dict(
        model_type=request.param, hidden_size=24, intermediate_size=40, num_hidden_layers=3,
        num_attention_heads=4, head_dim=10, vocab_size=VOCAB, max_position_embeddings=256,
        pad_token_id=0, bos_token_id=2, eos_token_id=1,
    ) | KINDS[request.param]  # fmt: skip
    vision = dict(
        model_type='siglip_vision_model', hidden_size=36, intermediate_size=50, num_hidden_layers=2,
        num_attention_heads=3, image_size=SIZE, patch_size=6, vision_use_head=False, projection_dim=24,
    )  # fmt: skip
    config = transformers.PaliGemmaConfig(
        text_config=text, vision_config=vision, projection_dim=24, image_token_index=SOFT
    )
    model = transformers.PaliGemmaForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.2 if 'embed_tokens' not in name else 0.5)
    return model


@pytest.fixture(scope='module')
def ours(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('paligemma')
    theirs.save_pretrained(folder)
    config = paligemma.model(json.loads((folder / 'config.json').read_text()))
    config |= dict(dtype='float32', separator=SEPARATOR)
    model = backbone.build(config, VOCAB)
    ids = jax.ShapeDtypeStruct((1, 4), 'int32')
    image = jax.ShapeDtypeStruct((1, 1, SIZE, SIZE, 3), 'uint8')
    shapes = parity.shapes_of(model, image, ids, ids)
    found = rules.imported(paligemma.rules(config), tensors.open_tensors(folder), shapes)
    return model, parity.read(found), config, shapes


LENGTHS = 9, 3, 6


@pytest.fixture(scope='module')
def inputs():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 1, SIZE, SIZE, 3), np.uint8)
    prompt = rng.integers(10, 80, (3, 9)) * (np.arange(9) < np.array(LENGTHS)[:, None])
    return images, prompt, rng.integers(10, 80, (3, 12))


def given(images, prompt, row, suffix=()):
    """One row as theirs is told, without padding."""
    prefix = [SOFT] * 16 + [2, *prompt[row, : LENGTHS[row]], SEPARATOR]
    pixels = torch.tensor(images[row] / 127.5 - 1, dtype=torch.float32).permute(0, 3, 1, 2)
    return dict(
        input_ids=torch.tensor([prefix + list(suffix)]),
        token_type_ids=torch.tensor([[0] * len(prefix) + [1] * len(suffix)]),
        attention_mask=torch.ones((1, len(prefix) + len(suffix)), dtype=torch.long),
        pixel_values=pixels,
    )


def test_logits_and_looks_at_the_image(theirs, ours, inputs):
    model, params, *_ = ours
    images, prompt, target = inputs
    target_in = np.pad(target[:, :-1], ((0, 0), (1, 0)))
    apply = jax.jit(lambda *inputs: model.apply(*inputs, mutable=['intermediates']))
    logits, left = apply(parity.variables(params), images, prompt, target_in)
    looks = model.image_attention(left['intermediates'], images, prompt)
    theirs.set_attn_implementation('eager')
    for row in range(3):
        with torch.no_grad():
            told = given(images, prompt, row, target[row, :-1])
            found = theirs(**told, output_attentions=True)
        weights = torch.stack(found.attentions)[:, 0].mean(1)[:, -12:, :16].numpy()
        np.testing.assert_allclose(looks[:, row], weights.reshape(3, 12, 1, 4, 4), atol=1e-5)
        expected = found.logits[0, -12:].numpy()
        assert expected.std() > 0.3
        np.testing.assert_allclose(logits[row], expected, atol=1e-4)


def test_greedy_continuations(theirs, ours, inputs):
    model, params, *_ = ours
    images, prompt, _ = inputs
    params = parity.variables(params)
    cache = parity.prefill(model, params, images, prompt)
    found = parity.greedy(model, params, cache, 3)
    for row in range(3):
        told = given(images, prompt, row)
        expected = theirs.generate(**told, max_new_tokens=32, min_new_tokens=32, do_sample=False)
        start = told['input_ids'].shape[1]
        np.testing.assert_array_equal(found[row], expected[0, start:].numpy())


def test_big_visions_layout_is_the_same_model(ours, tmp_path):
    _, params, config, shapes = ours
    table = paligemma_npz.rules(config)
    mine = {name: tensors.of_array(name, x) for name, x in params.items()}
    written = {name: t.read() for name, t in rules.exported(table, mine).items()}
    assert written['params/llm/layers/mlp/gating_einsum'].shape == (3, 2, 24, 40)
    assert written['params/llm/layers/attn/kv_einsum/w'].shape[:2] == (3, 2)
    np.savez(tmp_path / 'x.npz', **written)
    again = rules.imported(table, tensors.open_tensors(tmp_path / 'x.npz'), shapes)
    for name, x in params.items():
        np.testing.assert_array_equal(again[name].read(), x, err_msg=name)
