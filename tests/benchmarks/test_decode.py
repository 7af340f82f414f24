"""The decode benchmark: both halves decode the same, and the figures follow from what is measured."""

from etils import epath
import numpy as np
import pytest

from rt2_jax.benchmarks import decode, decode_model, machine
from rt2_jax.decoding.grammar import Kind


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    directory = epath.Path(tmp_path_factory.mktemp('decode'))
    decode.write(directory, 'tiny')
    return directory


def test_transformers_gives_the_same_probabilities_and_decodes_the_same(directory):
    torch = pytest.importorskip('torch', reason="the peer needs pip install 'rt2_jax[parity]'")
    pytest.importorskip('transformers')
    from rt2_jax.benchmarks import decode_transformers

    sampler, params = decode.policy(directory / 'ours', 'stored')
    grammar, question = sampler.grammar, decode_model.inputs(2, sampler.model.vocab)
    ours = sampler(params, *question[:2], Kind.ACTION, forced=question[2]).log_probs[:, 0]
    peer = decode_transformers.PaLI.load(directory, torch.float32, 'cpu')
    columns = [grammar.first_columns] + [grammar.bin_columns] * (decode_model.LENGTH - 1)
    np.testing.assert_allclose(ours, peer.log_probs(*question, columns), atol=1e-4)
    np.testing.assert_array_equal(peer.generate(*question[:2], 8, question[2]), question[2])


@pytest.mark.slow
def test_our_half_gives_a_row_for_each_action(directory):
    rows = decode.actions(directory / 'ours', 'int8', 3, prefill=False)
    assert len(set(next(rows))) == 3 and len(next(rows)) == 3
    assert len(next(machine.read())) == machine.READ_BYTES >> 24


def test_what_must_be_read():
    of = {kind: decode_model.bytes_read('base', kind, 1) for kind in ('bfloat16', 'int8')}
    whole = {kind: sum(parts.values()) for kind, parts in of.items()}
    # 334 M parameters less the tables, the decoder's eight times, 2 bytes each.
    assert 1.8e9 < whole['bfloat16'] < 2.2e9 and of['bfloat16']['steps'] > 3 * of['int8']['prefill']
    # Less than half is saved only of what is no kernel: the cache and a few rows of words.
    assert 0.5 < whole['int8'] / whole['bfloat16'] < 0.56
    more = decode_model.bytes_read('base', 'int8', 8)
    assert whole['int8'] < sum(more.values()) < 2 * whole['int8']


def test_figures_from_rates():
    rate = lambda x: {'per_second': x, 'turns': [x], 'cpu_ms': 1e3 / x}
    found = {
        'bfloat16': rate(4.0), 'int8': rate(5.0), 'peer_float32': rate(0.5), 'peer_bfloat16': rate(1.0),
        'bfloat16_prefill': rate(8.0), 'int8_prefill': rate(8.0),
        'read': rate(1_000.0), 'multiply': rate(500.0),
    }  # fmt: skip
    result = decode.compared(found, 'base', 1)
    assert (
        result['weights'] == 'int8' and result['ours'] == 5.0 and result['first_action_ms'] == 200
    )
    assert result['peer'] == 1.0 and result['ratio_peer'] == 5.0
    assert result['bandwidth'] == 1_000 << 24 and result['prefill_ms'] == 125
    floor = (1_000 << 24) / sum(result['bytes']['int8'].values())
    assert result['limit'] == pytest.approx(floor, rel=1e-3)
    assert result['ratio_limit'] == pytest.approx(5 / floor, rel=1e-2)
    assert 0 < result['limit_computing'] < result['limit']
    alone = decode.compared({k: v for k, v in found.items() if 'peer' not in k}, 'base', 1)
    assert 'ratio_peer' not in alone and alone['ratio_limit'] == result['ratio_limit']
