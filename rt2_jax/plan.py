"""The old name of `rt2_jax.estimate`."""

import sys

if __name__ == '__main__':
    print('rt2_jax.plan is rt2_jax.estimate now: python -m rt2_jax.estimate ...', file=sys.stderr)
    sys.exit(2)
