"""Where a tiny PaLI looks, against the softmax of its own queries and keys in numpy."""

import functools

import jax
import numpy as np

from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.policy.attention import ImageAttention
from rt2_jax.policy.runner import Inputs

PLAN, COUNT = 5, 8


def test_looks_are_the_softmax_of_queries_and_keys(tiny, tokenizer, action_tokenizer):
    params, rng = tiny.params(0), np.random.default_rng(0)
    frames = rng.integers(0, 256, (2, tiny.image_size, tiny.image_size, 3), np.uint8)
    answer = rng.integers(2, 200, PLAN + COUNT).tolist()
    inputs = Inputs(frames, rng.integers(2, 200, 9).tolist(), Kind.PLAN)
    grammar = Grammar.create(tokenizer, action_tokenizer, plan_length=8)
    attention = ImageAttention(tiny.model, grammar, tiny.prompt_length)
    looks = attention(params, inputs, answer)
    assert looks.shape == (2, COUNT, 2, 2, 2) and looks.dtype == np.float32

    # Another call, without any padding, and what its two products before the softmax gave.
    prompt, target_in = np.array([inputs.prompt]), np.array([[0, *answer[:-1]]])
    products = functools.partial(
        tiny.model.apply, capture_intermediates=lambda module, _: module.name in ('query', 'key'),
        mutable=['intermediates'],
    )  # fmt: skip
    _, left = jax.jit(products)({'params': params}, frames[None], prompt, target_in)
    cross = left['intermediates']['text_decoder']['layers']['cross_attention']
    queries, keys = (np.asarray(cross[name]['__call__'][0][:, 0]) for name in ('query', 'key'))
    logits = np.einsum('lthk,lshk->lhts', queries, keys)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    whole = weights.mean(1)[:, PLAN:]
    assert whole.shape == (2, COUNT, 8 + 9) and whole[..., :8].std() > 1e-3
    np.testing.assert_allclose(looks.reshape(2, COUNT, 8), whole[..., :8], atol=1e-5)
    # What the image tokens don't have, the nine words of the prompt do.
    rest = 1 - looks.sum((2, 3, 4))
    np.testing.assert_allclose(rest, whole[..., 8:].sum(-1), atol=1e-5)
    # A later word changes none of the looks that came before it.
    other = attention(params, inputs, [*answer[:-1], 7])
    np.testing.assert_array_equal(other, looks)
