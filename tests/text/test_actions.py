"""Action vectors <-> integers <-> token ids."""

import math

from absl import logging
import numpy as np
import pytest

from rt2_jax.text import actions
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer


@pytest.fixture(scope='module')
def tokenizer():
    return Tokenizer.load_default()


@pytest.fixture
def coder(tokenizer):
    return ActionTokenizer(ActionSpace.rt1_bounds(), tokenizer)


def uniform_actions(space: ActionSpace, number: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = rng.uniform(space.low, space.high, (number, len(space.names)))
    flags = rng.integers(0, 2, (number, int(space.terminate)))
    return np.concatenate([flags, values], axis=1).astype(np.float32)


SPACES = {
    'rt1': ActionSpace.rt1_bounds(),
    'lopsided': ActionSpace((0, -0.1, -0.2, 0, 1, -3, -1), (1, 0.3, 0.1, 0.5, 2, 3, 1)),
    'few bins': ActionSpace((-1,) * 7, (1,) * 7, bins=7),
    'language table': ActionSpace.language_table(),
    'one joint': ActionSpace((-2,), (3,), ('turn',), ('rad',), bins=32),
    'arm and base': ActionSpace((-1,) * 10, (1,) * 10, tuple('abcdefghij'), ('1',) * 10),
}


@pytest.mark.parametrize('name', SPACES)
def test_round_trip_within_half_a_bin(name, tokenizer):
    space = SPACES[name]
    coder = ActionTokenizer(space, tokenizer)
    action = uniform_actions(space, 20_000)
    flags = space.length - len(space.names)
    action[0, flags:], action[1, flags:] = space.low, space.high
    back = coder.decode(coder.encode(action))
    assert back.shape == (20_000, space.length)
    np.testing.assert_array_equal(back[:, :flags], action[:, :flags])
    assert (np.abs(back - action)[:, flags:] <= 0.5 * space.bin_widths + 1e-6).all()
    assert back.dtype == np.float32 and not coder.clipped.any()
    # Decoded values are fixed points: a replayed action is not moved any further.
    np.testing.assert_array_equal(coder.encode(back), coder.encode(action))


def test_zero_is_exact_where_the_range_is_symmetric(coder):
    null = np.zeros(8, np.float32)
    assert coder.to_integers(null).tolist() == [1] + [128] * 7  # the paper's own null bin
    assert coder.decode(coder.encode(null)).tolist() == [0.0] * 8


def test_terminate_is_zero_in_the_string_and_one_in_the_vector(coder, tokenizer):
    ids = coder.encode(np.array([[0.0] + [0.5] * 7, [1.0] + [0.5] * 7]))
    assert [tokenizer.decode(row.tolist()).split()[0] for row in ids] == ['1', '0']
    assert coder.decode(ids)[:, 0].tolist() == [0.0, 1.0]
    assert coder.terminate_ids == tuple(tokenizer.integer_ids[:2])


def test_the_papers_string_decodes(coder, tokenizer):
    ids = tokenizer.encode('1 128 91 241 5 101 127 217')
    action = coder.decode(ids)
    assert action[0] == 0 and action[1] == 0 and action[2] == pytest.approx(-37 * 2 / 255)
    assert tokenizer.decode(coder.encode(action).tolist()) == '1 128 91 241 5 101 127 217'


def test_language_table_counts_centimetres_about_ten(tokenizer):
    """The paper's "X Y", each -10..+10; 10 is added, for lack of tokens of negative integers."""
    space = ActionSpace.language_table()
    coder = ActionTokenizer(space, tokenizer)
    assert (space.length, space.number_names, space.labels) == (2, ('dx', 'dy'), ('dx_m', 'dy_m'))
    paper = np.stack(np.meshgrid(np.arange(-10, 11), np.arange(-10, 11)), axis=-1).reshape(-1, 2)
    np.testing.assert_array_equal(coder.to_integers(paper / 100), paper + 10)
    np.testing.assert_allclose(coder.from_integers(paper + 10), paper / 100, atol=1e-8)
    assert tokenizer.decode(coder.encode([0.1, -0.034]).tolist()).split() == ['20', '7']
    null = coder.decode(coder.encode(np.zeros(2)))
    assert null.tolist() == [0.0, 0.0] and not np.signbit(null).any()
    assert coder.decode(coder.encode([0.1, -0.1])).tolist() == np.float32([0.1, -0.1]).tolist()
    assert coder.encode(np.zeros((3, 4, 2))).shape == (3, 4, 2)
    with pytest.raises(ValueError, match=r'has 2 numbers \(dx, dy\), got shape \(3,\)'):
        coder.encode([0.0, 0.0, 0.0])
    with pytest.raises(ValueError, match="Integer 21 at position 0 of an action .'dx'. is outside"):
        coder.from_integers([21, 0])
    with pytest.raises(ValueError, match='no action token: an action is 2 ids.*0..20'):
        coder.decode([tokenizer.integer_ids[21], tokenizer.integer_ids[0]])


@pytest.mark.parametrize('name', SPACES)
def test_every_bin_of_every_dimension_decodes_inside_its_range(name):
    space = SPACES[name]
    assert (space.centres >= np.array(space.low)[:, None]).all()
    assert (space.centres <= np.array(space.high)[:, None]).all()
    assert (np.diff(space.centres) > 0).all()


def test_any_leading_shape(coder):
    action = uniform_actions(coder.space, 12).reshape(3, 4, 8)
    ids = coder.encode(action)
    assert ids.shape == (3, 4, 8) and ids.dtype == np.int32
    np.testing.assert_array_equal(coder.decode(ids)[1, 2], coder.decode(ids[1, 2]))


def test_clips_are_counted_and_logged(coder, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: warnings.append(text % args))
    action = np.array([0, 1.5, 0, -2.0, 0, 0, 2.0, 1.0])
    decoded = coder.decode(coder.encode(action))
    assert coder.clipped.tolist() == [1, 0, 1, 0, 0, 1, 0]
    assert decoded[1] == pytest.approx(1, abs=0.004) and decoded[3] == pytest.approx(-1, abs=0.004)
    assert len(warnings) == 1 and '3 action values' in warnings[0] and "'dx': 1" in warnings[0]
    for _ in range(3):
        coder.encode(action)  # 12 in all: the report at 10, and no more
    assert len(warnings) == 2 and coder.clipped.sum() == 12
    coder.encode(np.float32([0, 1, -1, 1, math.pi / 2, 0, 0, 1]))  # float32 rounding is no clip
    assert coder.clipped.sum() == 12


@pytest.mark.parametrize(
    'action, message',
    [
        ([0, 0, np.nan, 0, 0, 0, 0, 0], "nan for 'dy'"),
        ([np.inf, 0, 0, 0, 0, 0, 0, 0], "inf for 'terminate'"),
        ([2, 0, 0, 0, 0, 0, 0, 0], 'terminate flag'),
        ([0] * 7, '8 numbers'),
    ],
)
def test_bad_actions_raise(coder, action, message):
    with pytest.raises(ValueError, match=message):
        coder.encode(action)


def test_ids_that_are_no_action_raise(coder, tokenizer):
    good = coder.encode(np.zeros(8))
    for place, token in [(2, tokenizer.eos_id), (7, 10**6), (4, -1)]:
        ids = good.copy()
        ids[place] = token
        with pytest.raises(ValueError, match=f'Token id {token} at position {place}'):
            coder.decode(ids)
    flag = good.copy()
    flag[0] = tokenizer.integer_ids[2]
    with pytest.raises(ValueError, match="Integer 2 at position 0.*'terminate'"):
        coder.decode(flag)
    with pytest.raises(ValueError, match='shape'):
        coder.decode(good[:7])


def test_json_round_trip_and_its_errors():
    space = SPACES['lopsided']
    for other in SPACES.values():
        assert ActionSpace.from_json(other.to_json()) == other
    # Before there was a choice, every action had its flag: such JSON loads, and is still written.
    assert 'terminate' not in space.to_json() and ActionSpace.from_json(space.to_json()).terminate
    assert '"terminate": false' in SPACES['language table'].to_json()
    assert hash(ActionSpace.from_json(space.to_json())) == hash(space)
    with pytest.raises(ValueError, match="lacks.*'low'"):
        ActionSpace.from_json('{"high": [1]}')
    with pytest.raises(ValueError, match='unknown fields'):
        ActionSpace.from_json(space.to_json()[:-1] + ', "hz": 3}')


def test_near_zero_ranges_are_widened_with_a_warning(monkeypatch):
    warnings = []
    monkeypatch.setattr(logging, 'warning', lambda text, *args: warnings.append(text % args))
    ends = np.array([-0.2] * 5 + [0.25] + [-1.0]), np.array([0.2] * 5 + [0.25] + [1.0])
    space = ActionSpace(*map(tuple, ends))  # drz never turns
    width = space.high[5] - space.low[5]
    assert width == pytest.approx(actions.MINIMUM_RANGE)
    assert np.mean([space.low[5], space.high[5]]) == 0.25
    assert len(warnings) == 1 and "'drz'" in warnings[0]
    assert space.high[0] == 0.2
    ActionSpace.from_json(space.to_json())
    assert len(warnings) == 1  # once widened, it is wide enough


@pytest.mark.parametrize(
    'low, high', [((0,) * 7, (-1,) * 7), ((0,) * 7, (math.nan,) * 7), ((0,) * 6, (1,) * 7)]
)
def test_senseless_ranges_raise(low, high):
    with pytest.raises(ValueError, match='ActionSpace'):
        ActionSpace(low, high)


def test_senseless_settings_raise():
    with pytest.raises(ValueError, match='no dimensions'):
        ActionSpace((), (), (), ())
    with pytest.raises(ValueError, match="terminate is 'no'"):
        ActionSpace.from_json(SPACES['rt1'].to_json()[:-1] + ', "terminate": "no"}')


def test_integers_that_are_not_one_to_one_with_ids_raise(tokenizer):
    class Shifted(Tokenizer):
        """The project's vocabulary with its table of integers spoilt."""

    shifted = Shifted(tokenizer.model_bytes)
    shifted.integer_ids = np.roll(tokenizer.integer_ids, 1)
    with pytest.raises(ValueError, match='Integer 0 is said to be token'):
        ActionTokenizer(ActionSpace.rt1_bounds(), shifted)
    shifted.integer_ids = np.full(1001, tokenizer.integer_ids[0])
    with pytest.raises(ValueError, match='share one token id'):
        ActionTokenizer(ActionSpace.rt1_bounds(), shifted)
