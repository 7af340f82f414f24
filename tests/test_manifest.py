"""Manifests say how a result came about."""

from rt2_jax.manifest import make_manifest


def test_manifest_says_what_ran():
    manifest = make_manifest(seeds=[1, 2])
    assert manifest['seeds'] == [1, 2] and manifest['device'].startswith('cpu')
    assert {'python', 'jax', 'flax', 'mujoco-core'} <= set(manifest['versions'])
    assert manifest['date'].endswith('+00:00') and manifest['command']
