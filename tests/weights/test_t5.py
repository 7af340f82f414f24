"""T5-family checkpoints: our states and logits are transformers' to the digit, with and without a cache."""

import json

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest

from rt2_jax.models import embedding, encoder_decoder
from rt2_jax.weights import rules, t5, tensors

torch = pytest.importorskip('torch', reason="parity needs pip install 'rt2_jax[parity]'")
transformers = pytest.importorskip('transformers')


CASES = {
    'gelu': dict(
        feed_forward_proj='gated-gelu', num_layers=3, num_decoder_layers=2, num_heads=3, d_kv=10
    ),
    'silu': dict(
        feed_forward_proj='gated-silu', num_layers=2, num_decoder_layers=4, num_heads=5, d_kv=6
    ),
}


class Text(nn.Module):
    """The text parts of PaLI by themselves."""

    config: flax.core.FrozenDict

    def setup(self):
        c = self.config
        self.embedding = embedding.Embedding(c['vocab'], c['encoder']['width'], jnp.float32)
        self.text_encoder = encoder_decoder.Encoder(
            encoder_decoder.T5Config(dtype=jnp.float32, **c['encoder'])
        )
        self.text_decoder = encoder_decoder.Decoder(
            encoder_decoder.T5Config(dtype=jnp.float32, **c['decoder'])
        )
        self.head = embedding.Head(c['vocab'], jnp.float32)

    def encode(self, prompt, valid):
        return self.text_encoder(self.embedding(prompt), valid)

    def __call__(self, prompt, valid, target_in):
        states = self.text_decoder(self.embedding(target_in), self.encode(prompt, valid), valid)
        return self.head(states)

    def prefill(self, prompt, valid, length):
        return self.text_decoder.prefill(self.encode(prompt, valid), valid, length)

    def step(self, cache, token):
        x, cache = self.text_decoder.step(self.embedding(token[:, None]), cache)
        return self.head(x[:, 0]), cache


@pytest.fixture(params=CASES)
def theirs(request):
    torch.manual_seed(0)
    config = transformers.T5Config(
        d_model=24, d_ff=44, vocab_size=71, tie_word_embeddings=False, dropout_rate=0.0,
        decoder_start_token_id=0,
        initializer_factor=1.0, **CASES[request.param],
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config).eval()
    # As in the released files of v1.1, and not as this version of transformers begins.
    model.config.tie_word_embeddings = False
    model.lm_head.weight = torch.nn.Parameter(torch.randn(71, 24) / 5)
    return model


@pytest.fixture
def directory(theirs, tmp_path):
    theirs.save_pretrained(tmp_path / 'theirs')
    return tmp_path / 'theirs'


@pytest.fixture
def ours(directory):
    config = t5.model(json.loads((directory / 'config.json').read_text()))
    model = Text(flax.core.freeze(config))
    ids = jax.ShapeDtypeStruct((1, 4), 'int32')
    shapes = parity.shapes_of(model, ids, ids, ids)
    found = rules.imported(t5.RULES, tensors.open_tensors(directory), shapes)
    return model, parity.variables(parity.read(found))


def inputs():
    rng = np.random.default_rng(0)
    prompt = rng.integers(2, 71, (3, 40))
    valid = np.arange(40) < np.array([[40], [17], [5]])
    return np.where(valid, prompt, 0), valid, rng.integers(0, 71, (3, 33))


def test_states_and_logits(theirs, ours):
    model, params = ours
    prompt, valid, target_in = inputs()
    with torch.no_grad():
        found = theirs(
            input_ids=torch.tensor(prompt),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            decoder_input_ids=torch.tensor(target_in),
        )
    apply = jax.jit(model.apply, static_argnames='method')
    states = apply(params, prompt, valid, method='encode')
    expected = found.encoder_last_hidden_state.numpy()
    np.testing.assert_allclose(states[valid], expected[valid], atol=1e-4)
    logits = apply(params, prompt, valid, target_in)
    assert found.logits.std() > 0.5
    np.testing.assert_allclose(logits, found.logits.numpy(), atol=1e-4)


def test_greedy_continuations(theirs, ours):
    model, params = ours
    prompt, valid, _ = inputs()
    expected = theirs.generate(
        input_ids=torch.tensor(prompt), attention_mask=torch.tensor(valid, dtype=torch.long),
        max_new_tokens=32, min_new_tokens=32, do_sample=False,
        use_cache=False,  # theirs takes its size from the encoder's depth
    ).numpy()[:, 1:]  # fmt: skip
    cache = parity.prefill(model, params, prompt, valid)
    np.testing.assert_array_equal(parity.greedy(model, params, cache, 3), expected)


def test_a_head_that_is_the_word_table(theirs, ours, directory):
    """Where a file has one table for both, it becomes two, and the logits are theirs."""
    model, params = ours
    found = tensors.open_tensors(directory)
    del found['lm_head.weight']
    shapes = {
        name: x.shape
        for name, x in flax.traverse_util.flatten_dict(params['params'], sep='/').items()
    }
    tied = parity.variables(parity.read(rules.imported(t5.RULES, found, shapes)))
    theirs.lm_head.weight = theirs.shared.weight
    prompt, valid, target_in = inputs()
    with torch.no_grad():
        expected = theirs(
            input_ids=torch.tensor(prompt),
            attention_mask=torch.tensor(valid, dtype=torch.long),
            decoder_input_ids=torch.tensor(target_in),
        ).logits.numpy()
    logits = jax.jit(model.apply)(tied, prompt, valid, target_in)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_out_again_and_in_again(theirs, ours, directory, tmp_path):
    model, params = ours
    flat = flax.traverse_util.flatten_dict(params['params'], sep='/')
    back = rules.exported(t5.RULES, {name: tensors.of_array(name, x) for name, x in flat.items()})
    tensors.write_safetensors(tmp_path / 'back', back, shard_bytes=20_000)
    assert len(list((tmp_path / 'back').glob('*.safetensors'))) > 1
    (tmp_path / 'back/config.json').write_text((directory / 'config.json').read_text())
    again = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / 'back')
    for name, x in theirs.state_dict().items():
        assert torch.equal(again.state_dict()[name], x), name
    found = rules.imported(
        t5.RULES, tensors.open_tensors(tmp_path / 'back'), {n: x.shape for n, x in flat.items()}
    )
    for name, x in flat.items():
        np.testing.assert_array_equal(found[name].read(), x, err_msg=name)
        half = tuple(slice(0, max(1, size // 2)) for size in x.shape)
        np.testing.assert_array_equal(found[name][half], x[half], err_msg=name)
