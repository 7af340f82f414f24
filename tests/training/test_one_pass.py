"""A model that writes actions alone: its loss, its statistics, and the targets that it learns from."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.encoding import ExampleEncoder
from rt2_jax.data.example import Example
from rt2_jax.models import backbone
from rt2_jax.parallel.sharding import named_leaves
from rt2_jax.text.actions import ActionSpace, ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer
from rt2_jax.training import step as step_lib, train_state as state_lib

MODEL = dict(
    name='rt1',
    dtype='float32',
    frames=2,
    slots=3,
    bins=4,
    image_tokens=2,
    learner=4,
    words=8,
    tower='resnet',
    vision=dict(stages=(1,), width=8, bottleneck=False, strides=(1,), momentum=0.5),
    decoder=dict(width=8, depth=1, heads=1, head_dim=8, mlp=8),
)


def test_the_loss_is_that_of_the_actions_tokens_alone():
    rng = np.random.default_rng(0)
    logits, columns = rng.normal(size=(2, 4, 3)), (7, 5, 9)
    target = np.array([[7, 9, 1, 0], [5, 5, 7, 30]], np.int32)  # 1 is an end, 30 another token
    batch = {'target': jnp.asarray(target)}
    rows, _ = step_lib.measure(jnp.asarray(logits, jnp.float32), batch, None, columns)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = [-log_p[0, 0, 0] - log_p[0, 1, 2], -log_p[1, [0, 1, 2], [1, 1, 0]].sum()]
    np.testing.assert_allclose(rows['loss'], expected, rtol=1e-5)
    np.testing.assert_array_equal(rows['tokens'], [2, 3])
    best = np.array(columns)[logits.argmax(-1)]
    np.testing.assert_array_equal(rows['correct'], ((best == target) & (target != 30)).sum(1))


def test_a_step_moves_statistics_and_leaves_words():
    model = backbone.build(MODEL, 20, integers=range(10, 14))
    rng = np.random.default_rng(1)
    batch = {
        'images': rng.integers(0, 255, (4, 2, 16, 16, 3)).astype(np.uint8),
        'prompt': np.full((4, 2), 5, np.int32),
        'target': np.array([[10, 11, 12, 13, 10, 11, 1]] * 4, np.int32),
        'source': np.zeros(4, np.int32),
        'kind': np.zeros(4, np.int32),
    }
    inputs = (batch[name] for name in ('images', 'prompt', 'target'))
    boxed = jax.eval_shape(model.init, jax.random.key(0), *inputs)['params']
    params = jax.tree.map(
        lambda x: (0.3 * np.abs(rng.normal(size=x.shape))).astype(np.float32), nn.meta.unbox(boxed)
    )
    names = named_leaves(params)
    frozen = {n for n in names if 'running' in n or n.startswith('embedding')}
    optimizer = optax.sgd(0.1)
    state = state_lib.TrainState(
        step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params)
    )
    for accumulate in (1, 2):
        step = step_lib.make_train_step(
            model, optimizer, (1, 1), accumulate=accumulate, frozen=frozen
        )
        after, sums = jax.jit(step)(state, batch)
        assert float(sums.source.tokens[0]) == 24 and np.isfinite(float(sums.loss))
        moved = named_leaves(jax.device_get(after.params))
        changed = {name for name, x in moved.items() if np.any(x != names[name])}
        assert {n for n in names if 'running' in n} <= changed
        assert 'head/kernel' in changed and 'embedding/embedding' not in changed
        # Of the stem's mean, nothing but the batch itself decides.
        mean = moved['tower/stem_norm/running_mean']
        if accumulate == 1:
            first = mean
        np.testing.assert_allclose(mean, first, rtol=1e-4)


def test_a_target_holds_the_actions_of_all_frames_oldest_first():
    tokenizer = Tokenizer.load_default()
    space = ActionSpace.rt1_bounds()
    actions = ActionTokenizer(space, tokenizer)
    length = space.length
    data = DataConfig(image_size=8, prompt_length=4, target_length=2 * length + 1, frames=2)
    encoder = ExampleEncoder(
        tokenizer, data, sources=['robot'], kinds=['robot'], actions={'robot': actions}
    )
    numbers = np.zeros((2, length), np.float32)
    numbers[0, 1] = 0.03
    example = Example(
        frames=np.zeros((2, 8, 8, 3), np.uint8),
        prompt='Q: A:',
        action=numbers[1],
        earlier=numbers[:1],
        source='robot',
        kind='robot',
    )
    target = encoder(example, 'robot')['target']
    np.testing.assert_array_equal(target[:-1].reshape(2, length), actions.encode(numbers))
    assert target[-1] == tokenizer.eos_id
