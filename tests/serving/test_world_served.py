"""A served policy and a world that lives in a Python environment of its own."""

import json

from running import running
from world_python import in_python_of, needs

from rt2_jax.data import cards
from rt2_jax.policy import Policy


@needs('metaworld')
def test_a_served_policy_is_played_from_its_python(tiny, tmp_path):
    config = tiny.config().unlock()
    config.embodiment = 'metaworld'
    card = cards.METAWORLD
    policy = Policy.from_config(
        config, tiny.params(1), tiny.tokenizer, card.action_space, batch_sizes=(2,), embodiment=card
    )
    policy.source, policy.sources = 'metaworld', ('metaworld',)
    output = tmp_path / 'served.json'
    with running(policy) as server:
        in_python_of(
            'metaworld',
            *('-m', 'rt2_jax.evaluate', f'--server=ws://127.0.0.1:{server.port}'),
            *('--suite=metaworld/reach', '--episodes=2', '--image_size=16', f'--output={output}'),
        )
    results = json.loads(output.read_text())
    assert results['manifest']['served']['source'] == 'metaworld'
    (figures,) = results['policies']['checkpoint'].values()
    assert figures['episodes'] == 2 and list(figures['tasks']) == ['reach']
