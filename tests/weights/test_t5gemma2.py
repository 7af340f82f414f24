"""T5Gemma 2: states, logits, looks and continuations are transformers', windows and global layers both."""

import json

import jax
import numpy as np
import parity
import pytest

from rt2_jax.models import backbone
from rt2_jax.weights import rules, t5gemma2, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')


VOCAB, SIZE, SOFT = 97, 24, 90
BEFORE, AFTER = (2, 18, 88), (89, 18)


LOCAL, GLOBAL = 'sliding_attention', 'full_attention'


def text(**settings):
    return dict(
        hidden_size=24, intermediate_size=40, num_attention_heads=4, num_key_value_heads=2, head_dim=10,
        vocab_size=VOCAB, sliding_window=7, query_pre_attn_scalar=20, max_position_embeddings=256,
        pad_token_id=0, eos_token_id=1, bos_token_id=2,
        layer_types=[LOCAL, LOCAL, GLOBAL, LOCAL][: settings['num_hidden_layers']],
        rope_parameters={
            LOCAL: {'rope_type': 'default', 'rope_theta': 100.0},
            GLOBAL: {'rope_type': 'linear', 'rope_theta': 1000.0, 'factor': 2.0},
        },
        **settings,
    )  # fmt: skip


@pytest.fixture(scope='module')
def theirs():
    torch.manual_seed(0)
    vision = dict(
        model_type='siglip_vision_model', hidden_size=36, intermediate_size=50, num_hidden_layers=2,
        num_attention_heads=3, image_size=SIZE, patch_size=6, vision_use_head=False,
    )  # fmt: skip
    config = transformers.T5Gemma2Config(
        encoder=dict(
            text_config=text(num_hidden_layers=4), vision_config=vision, mm_tokens_per_image=4,
            boi_token_index=BEFORE[-1], eoi_token_index=AFTER[0], image_token_index=SOFT,
        ),
        decoder=text(num_hidden_layers=3, final_logit_softcapping=3.0),
        image_token_index=SOFT,
    )  # fmt: skip
    model = transformers.T5Gemma2ForConditionalGeneration(config).eval()
    for name, parameter in model.named_parameters():
        torch.nn.init.normal_(parameter, std=0.3 if 'embed' not in name else 0.5)
    return model


@pytest.fixture(scope='module')
def directory(theirs, tmp_path_factory):
    folder = tmp_path_factory.mktemp('t5gemma2')
    theirs.save_pretrained(folder)
    return folder


@pytest.fixture(scope='module')
def ours(directory):
    config = t5gemma2.model(json.loads((directory / 'config.json').read_text()))
    config |= dict(before_image=BEFORE, after_image=AFTER, dtype='float32')
    model = backbone.build(config, VOCAB)
    ids = jax.ShapeDtypeStruct((1, 4), 'int32')
    image = jax.ShapeDtypeStruct((1, 1, SIZE, SIZE, 3), 'uint8')
    shapes = parity.shapes_of(model, image, ids, ids)
    found = rules.imported(t5gemma2.rules(config), tensors.open_tensors(directory), shapes)
    return model, parity.variables(parity.read(found))


@pytest.fixture(scope='module')
def inputs():
    """Two frames before each prompt, as our model arranges them and as theirs is told."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (3, 2, SIZE, SIZE, 3), np.uint8)
    prompt = rng.integers(3, 80, (3, 11)) * (np.arange(11) < np.array([[11], [4], [7]]))
    frame = [*BEFORE, *[SOFT] * 4, *AFTER]
    ids = np.concatenate([np.tile(frame * 2, (3, 1)), prompt], 1)
    mask = np.concatenate([np.ones((3, 2 * len(frame)), int), (prompt > 0).astype(int)], 1)
    pixels = torch.tensor(images.reshape(-1, SIZE, SIZE, 3) / 127.5 - 1, dtype=torch.float32)
    given = dict(
        input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask),
        pixel_values=pixels.permute(0, 3, 1, 2),
    )  # fmt: skip
    return images, prompt, given


def test_states_logits_and_looks_at_the_image(theirs, ours, inputs):
    model, params = ours
    images, prompt, given = inputs
    target_in = np.random.default_rng(1).integers(3, 80, (3, 19))
    target_in[:, 0] = 2
    theirs.set_attn_implementation('eager')
    with torch.no_grad():
        told = dict(decoder_input_ids=torch.tensor(target_in), output_attentions=True)
        found = theirs(**given, **told)
    encode = jax.jit(lambda *inputs: model.apply(*inputs, method='encode'))
    states, valid = encode(params, images, prompt)
    expected = found.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(states[valid], expected[valid], atol=1e-4)
    shifted = target_in * (np.arange(19) > 0)
    apply = jax.jit(lambda *inputs: model.apply(*inputs, mutable=['intermediates']))
    logits, left = apply(params, images, prompt, shifted)
    assert found.logits.std() > 0.3
    np.testing.assert_allclose(logits, found.logits.numpy(), atol=1e-4)
    looks = model.image_attention(left['intermediates'], images, prompt)
    expected = (
        torch.stack(found.cross_attentions).mean(2)[..., given['input_ids'][0] == SOFT].numpy()
    )
    np.testing.assert_allclose(looks, expected.reshape(3, 3, 19, 2, 2, 2), atol=1e-5)
    assert expected.std() > 0.005


def test_greedy_continuations(theirs, ours, inputs):
    model, params = ours
    images, prompt, given = inputs
    expected = theirs.generate(
        **given, max_new_tokens=32, min_new_tokens=32, do_sample=False, use_cache=False
    ).numpy()[:, 1:]
    cache = parity.prefill(model, params, images, prompt)
    np.testing.assert_array_equal(parity.greedy(model, params, cache, 3), expected)
