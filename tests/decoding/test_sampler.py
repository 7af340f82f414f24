"""The sampler over a tiny PaLI with random weights."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rt2_jax.decoding.draw import choose, log_softmax, spread
from rt2_jax.decoding.grammar import Grammar, Kind
from rt2_jax.decoding.sampler import Sampler
from rt2_jax.text import prompts
from rt2_jax.text.actions import ActionSpace, ActionTokenizer

BATCH = 12


@pytest.fixture(scope='module')
def sampler(tiny, tokenizer, action_tokenizer):
    grammar = Grammar.create(tokenizer, action_tokenizer, text_length=10, plan_length=12)
    return Sampler(tiny.model, grammar)


MIXED = np.arange(BATCH) % 3


@pytest.mark.parametrize('seeds', [1, pytest.param(5, marks=pytest.mark.slow)])
def test_two_thousand_sampled_actions_a_seed_all_decode(tiny, sampler, action_tokenizer, seeds):
    decoded = 0
    for seed in range(seeds):
        images, prompt = tiny.inputs(seed, 40)
        samples = sampler(
            tiny.params(seed),
            images,
            prompt,
            Kind.ACTION,
            rng=jax.random.key(seed),
            temperature=1.5,
            num_samples=50,
        )
        actions = action_tokenizer.decode(samples.tokens)
        assert np.isfinite(actions).all() and np.isfinite(samples.log_probs).all()
        assert (samples.lengths == 8).all()
        decoded += actions[..., 0].size
    assert decoded == 2_000 * seeds


def test_a_thousand_sampled_actions_of_two_numbers_all_decode(tiny, tokenizer):
    table = ActionTokenizer(ActionSpace.language_table(), tokenizer)
    sampler = Sampler(tiny.model, Grammar.create(tokenizer, table))
    images, prompt = tiny.inputs(0, 20)
    settings = dict(rng=jax.random.key(0), temperature=1.5, num_samples=50)
    samples = sampler(tiny.params(0), images, prompt, Kind.ACTION, **settings)
    assert table.decode(samples.tokens).shape == (20, 50, 2) and (samples.lengths == 2).all()
    full = dataclasses.replace(sampler, restrict=False)
    masked = full(tiny.params(0), images, prompt, Kind.ACTION, **settings)
    np.testing.assert_array_equal(samples.tokens, masked.tokens)
    np.testing.assert_allclose(samples.log_probs, masked.log_probs, atol=1e-5)


@pytest.mark.parametrize(
    'kinds, samples, smoothing',
    [(Kind.ACTION, 1, 0.0), (Kind.PLAN, 1, 4.0), (MIXED, 2, 4.0)],
    ids=['action', 'plan', 'mixed'],
)
def test_restricted_columns_equal_masked_full_logits(tiny, sampler, kinds, samples, smoothing):
    sampler = dataclasses.replace(sampler, smoothing=smoothing)
    full = dataclasses.replace(sampler, restrict=False)
    params, (images, prompt) = tiny.params(1), tiny.inputs(1, BATCH)
    for temperature in (0.0, 0.8):
        settings = dict(rng=jax.random.key(3), temperature=temperature, num_samples=samples)
        few = sampler(params, images, prompt, kinds, **settings)
        all_of_them = full(params, images, prompt, kinds, **settings)
        np.testing.assert_array_equal(few.tokens, all_of_them.tokens)
        np.testing.assert_allclose(few.log_probs, all_of_them.log_probs, atol=1e-5)
        np.testing.assert_allclose(few.entropies, all_of_them.entropies, atol=1e-4)


def test_smoothing_takes_the_likeliest_place_of_a_number(tiny, sampler):
    """A peak of one bin loses to many near bins; the flag and what was drawn stay as they are."""
    log_p = jnp.log(jnp.full((1, 256), 1e-9).at[0, 128].set(0.3).at[0, 60:80].set(0.035))
    assert jnp.argmax(log_p) == 128 and 66 <= jnp.argmax(spread(log_p, 5.0)) <= 73
    params, (images, prompt) = tiny.params(1), tiny.inputs(1, BATCH)
    smooth = dataclasses.replace(sampler, smoothing=5.0)
    plain, smoothed = (s(params, images, prompt, Kind.ACTION) for s in (sampler, smooth))
    assert (plain.tokens[..., 0] == smoothed.tokens[..., 0]).all()
    assert (plain.tokens[..., 1:] != smoothed.tokens[..., 1:]).any()
    settings = dict(rng=jax.random.key(0), temperature=1.0)
    drawn = [s(params, images, prompt, Kind.ACTION, **settings).tokens for s in (sampler, smooth)]
    np.testing.assert_array_equal(*drawn)


@pytest.mark.parametrize('kind', [Kind.ACTION, Kind.PLAN])
@pytest.mark.parametrize('restrict', [True, False])
def test_an_episode_ends_where_that_is_likelier_than_the_threshold(tiny, sampler, kind, restrict):
    params, (images, prompt) = tiny.params(1), tiny.inputs(1, BATCH)
    end = sampler.grammar.bin_ids[0]

    def flags(sampler):
        samples = sampler(params, images, prompt, kind)
        places = np.asarray(samples.lengths) - sampler.grammar.action_length
        read = lambda x: np.take_along_axis(np.asarray(x)[:, 0], places, axis=1)[:, 0]
        return read(samples.tokens) == end, np.exp(read(samples.log_probs))

    ended, probability = flags(sampler)
    ending = np.where(ended, probability, 1 - probability)
    threshold = float(np.sort(ending)[BATCH // 2 - 1 : BATCH // 2 + 1].mean())
    changed = dataclasses.replace(sampler, terminate_threshold=threshold, restrict=restrict)
    ended, probability = flags(changed)
    np.testing.assert_array_equal(ended, ending > threshold)
    assert ended.sum() == BATCH // 2
    # What is reported is the model's own probability.
    np.testing.assert_allclose(np.where(ended, probability, 1 - probability), ending, atol=1e-5)


def test_cached_decoding_equals_teacher_forcing(tiny, sampler):
    """Step by step with a cache, and all at once over the sampled answer, give the same logits."""
    params, (images, prompt) = tiny.params(2), tiny.inputs(2, BATCH)
    samples = sampler(params, images, prompt, MIXED, rng=jax.random.key(0), temperature=1.0)
    tokens = samples.tokens[:, 0]
    target_in = jnp.pad(tokens[:, :-1], [(0, 0), (1, 0)])
    variables = {'params': params}
    logits = jax.jit(tiny.model.apply)(variables, images, prompt, target_in)

    apply = jax.jit(tiny.model.apply, static_argnames=('method', 'max_length'))
    cache = apply(variables, images, prompt, max_length=tokens.shape[1], method='prefill')
    for step in range(tokens.shape[1]):
        stepped, cache = apply(variables, cache, target_in[:, step], method='step')
        np.testing.assert_allclose(stepped, logits[:, step], atol=1e-4)

    state = sampler.grammar.start(jnp.asarray(MIXED, jnp.int32))
    for step in range(tokens.shape[1]):
        going_on = ~np.asarray(sampler.grammar.done(state))
        mask = sampler.grammar.allowed(state, None, logits.shape[-1]) | ~going_on[:, None]
        log_p = log_softmax(logits[:, step], mask)
        expected = jnp.take_along_axis(log_p, tokens[:, step : step + 1], axis=1)[:, 0]
        np.testing.assert_allclose(
            samples.log_probs[going_on, 0, step], expected[going_on], atol=1e-4
        )
        state = sampler.grammar.advance(state, tokens[:, step])


def test_greedy_takes_the_likeliest_allowed_token(tiny, sampler):
    params, (images, prompt) = tiny.params(3), tiny.inputs(3, BATCH)
    tokens = np.asarray(sampler(params, images, prompt, Kind.ACTION).tokens[:, 0])
    target_in = np.pad(tokens[:, :-1], [(0, 0), (1, 0)])
    logits = np.asarray(jax.jit(tiny.model.apply)({'params': params}, images, prompt, target_in))
    for step in range(8):
        columns = sampler.grammar.first_columns if step == 0 else sampler.grammar.bin_columns
        np.testing.assert_array_equal(tokens[:, step], columns[logits[:, step, columns].argmax(-1)])
    settings = dict(temperature=1e-4, rng=jax.random.key(9))
    cold = sampler(params, images, prompt, Kind.ACTION, **settings).tokens[:, 0]
    assert (np.asarray(cold) == tokens).mean() > 0.95


def test_plans_always_decode(tiny, sampler, action_tokenizer):
    for seed in range(10):
        images, prompt = tiny.inputs(seed, BATCH)
        samples = sampler(
            tiny.params(seed), images, prompt, Kind.PLAN, rng=jax.random.key(seed), temperature=1.0
        )
        for row, length in zip(
            np.asarray(samples.tokens).reshape(-1, samples.tokens.shape[-1]),
            np.asarray(samples.lengths).ravel(),
        ):
            action_tokenizer.decode(row[length - 8 : length])
            assert not row[length:].any() and row[:length].all()


def test_rows_end_on_their_own(tiny, sampler):
    """A row's answer is the same alone, padded into a batch, and beside longer ones."""
    params, (images, prompt) = tiny.params(4), tiny.inputs(4, BATCH)
    settings = dict(rng=jax.random.key(1), temperature=1.0)
    together = sampler(params, images, prompt, MIXED, **settings)
    lengths = np.asarray(together.lengths[:, 0])
    assert set(lengths[MIXED == Kind.ACTION]) == {8} and lengths.max() > 8
    for row, length in enumerate(lengths):
        assert not together.tokens[row, 0, length:].any()
        assert not together.log_probs[row, 0, length:].any()
        assert not together.entropies[row, 0, length:].any()
    first = sampler(params, images[:3], prompt[:3], MIXED[:3], **settings)
    np.testing.assert_array_equal(first.tokens, together.tokens[:3])
    actions = sampler(params, images, prompt, Kind.ACTION, **settings)
    np.testing.assert_array_equal(actions.tokens[::3, 0], together.tokens[::3, 0, :8])


def test_samples_of_one_question_differ_and_repeat(tiny, sampler):
    params, (images, prompt) = tiny.params(5), tiny.inputs(5, BATCH)
    draw = lambda seed, number: np.asarray(
        sampler(
            params,
            images,
            prompt,
            Kind.ACTION,
            rng=jax.random.key(seed),
            temperature=1.0,
            num_samples=number,
        ).tokens
    )
    many = draw(0, 16)
    assert len(np.unique(many[0], axis=0)) > 8
    np.testing.assert_array_equal(many, draw(0, 16))
    np.testing.assert_array_equal(many[:, :1], draw(0, 1))
    assert (many != draw(1, 16)).any()


def test_forced_tokens_are_taken_and_scored(tiny, sampler, tokenizer):
    params, (images, prompt) = tiny.params(6), tiny.inputs(6, BATCH)
    plan = tokenizer.encode(prompts.plan('pick banana'))
    forced = np.zeros([BATCH, len(plan)], np.int32)
    forced[0] = plan
    samples = sampler(params, images, prompt, Kind.PLAN, forced=forced)
    assert samples.tokens[0, 0, : len(plan)].tolist() == plan
    assert samples.lengths[0, 0] == len(plan) + 8
    free = sampler(params, images, prompt, Kind.PLAN)
    np.testing.assert_array_equal(samples.tokens[1:], free.tokens[1:])
    # What the model chose by itself has the same score when it is forced upon it.
    again = sampler(params, images, prompt, Kind.PLAN, forced=free.tokens[:, 0])
    np.testing.assert_array_equal(again.tokens, free.tokens)
    np.testing.assert_allclose(again.log_probs, free.log_probs, atol=1e-5)


def test_forcing_what_the_grammar_forbids_has_no_probability(tiny, sampler):
    images, prompt = tiny.inputs(6, BATCH)
    forced = np.full([BATCH, 1], sampler.grammar.bin_ids[7], np.int32)  # no terminate flag
    samples = sampler(tiny.params(6), images, prompt, Kind.ACTION, forced=forced)
    assert (np.asarray(samples.log_probs[:, 0, 0]) == -np.inf).all()


def test_log_probabilities_and_entropies_are_of_the_restricted_distribution(tiny, sampler):
    """Over the two flags and their log-probabilities everything can be summed by hand."""
    params, (images, prompt) = tiny.params(7), tiny.inputs(7, BATCH)
    forced = [
        sampler(params, images, prompt, Kind.ACTION, forced=np.full([BATCH, 1], flag, np.int32))
        for flag in sampler.grammar.bin_ids[:2]
    ]
    p = np.exp([np.asarray(samples.log_probs[:, 0, 0]) for samples in forced])
    np.testing.assert_allclose(p.sum(0), 1, atol=1e-6)
    np.testing.assert_allclose(forced[0].entropies[:, 0, 0], -(p * np.log(p)).sum(0), atol=1e-5)


def draws(log_p, temperature, top_p, number=20_000):
    uniform = jnp.asarray(np.random.default_rng(0).random(number, np.float32))
    rows = jnp.broadcast_to(log_p, (number, log_p.shape[-1]))
    chosen = choose(rows, uniform, jnp.full([number], temperature), top_p)
    return np.bincount(np.asarray(chosen), minlength=log_p.shape[-1]) / number


def test_draws_follow_the_distribution_and_its_temperature():
    p = np.array([0.5, 0.0, 0.3, 0.15, 0.05])
    log_p = log_softmax(jnp.log(jnp.asarray(p) + 1e-9)[None], jnp.asarray(p > 0)[None])
    np.testing.assert_allclose(draws(log_p, 1.0, 1.0), p, atol=0.015)
    np.testing.assert_allclose(draws(log_p, 2.0, 1.0), p**0.5 / (p**0.5).sum(), atol=0.015)
    np.testing.assert_allclose(draws(log_p, 1e-3, 1.0), [1, 0, 0, 0, 0], atol=1e-6)
    np.testing.assert_allclose(draws(log_p, 0.0, 1.0), [1, 0, 0, 0, 0])
    assert draws(log_p, 100.0, 1.0)[1] == 0  # what is masked stays out at any temperature


def test_top_p_keeps_the_fewest_tokens_that_reach_it():
    p = np.array([0.3, 0.05, 0.5, 0.15])
    log_p = jnp.log(jnp.asarray(p))[None]
    np.testing.assert_allclose(draws(log_p, 1.0, 0.79), [0.375, 0, 0.625, 0], atol=0.015)
    np.testing.assert_allclose(
        draws(log_p, 1.0, 0.9), [0.3 / 0.95, 0, 0.5 / 0.95, 0.15 / 0.95], atol=0.015
    )
    np.testing.assert_allclose(draws(log_p, 1.0, 1e-6), [0, 0, 1, 0])


def test_extreme_draws_stay_allowed():
    allowed = jnp.array([[False, True, True, False]])
    log_p = log_softmax(jnp.array([[9.0, 0.0, -60.0, 5.0]]), allowed)
    for uniform in (0.0, np.nextafter(np.float32(1), np.float32(0))):
        chosen = choose(log_p, jnp.array([uniform]), jnp.array([1.0]), 1.0)
        assert allowed[0, chosen[0]]


def test_the_usual_call_leaves_nothing_behind(tiny, sampler, monkeypatch):
    """Looks and alternatives are for those who ask: without `sow` its program is the same text."""
    shape = lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype)
    shapes = jax.tree.map(shape, (tiny.params(0), *tiny.inputs(0, 2)))
    lowered = lambda: dataclasses.replace(sampler).trace(*shapes, Kind.ACTION).lower()
    usual = lowered()
    assert [x.shape for x in jax.tree.leaves(usual.out_info)] == [(2, 1, 8)] * 3 + [(2, 1)]
    monkeypatch.setattr(nn.Module, 'sow', lambda *args, **settings: False)
    assert lowered().as_text() == usual.as_text()


def test_bad_settings_raise(tiny, sampler):
    images, prompt = tiny.inputs(0, 1)
    params = tiny.params(0)
    with pytest.raises(ValueError, match='needs `rng`'):
        sampler(params, images, prompt, Kind.ACTION, temperature=1.0)
    for temperature in (-1.0, np.nan):
        with pytest.raises(ValueError, match='0 or more'):
            sampler(params, images, prompt, Kind.ACTION, temperature=temperature)
    with pytest.raises(ValueError, match='num_samples is 0'):
        sampler(params, images, prompt, Kind.ACTION, num_samples=0)
    with pytest.raises(ValueError, match='alternatives is -1'):
        sampler(params, images, prompt, Kind.ACTION, alternatives=-1)
    with pytest.raises(ValueError, match='top_p is 0'):
        dataclasses.replace(sampler, top_p=0.0)
