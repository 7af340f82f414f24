"""The old name of `rt2_jax.checkpoints.inspect`.

There is no __init__.py, so that Python's own `inspect` stays in front.
"""

import sys

if __name__ == '__main__':
    print(
        'rt2_jax.inspect is rt2_jax.checkpoints.inspect now: '
        'python -m rt2_jax.checkpoints.inspect ...',
        file=sys.stderr,
    )
    sys.exit(2)
