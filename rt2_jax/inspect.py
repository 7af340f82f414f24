"""Looks into a checkpoint, and at what differs between two.

    python -m rt2_jax.inspect --checkpoint=runs/cofinetune [--against=package:tabletop_pretrained]

See rt2_jax/inspection/command.py. This file has the name of a module of Python's own library: where a
script of this folder is run by its path, Python looks here first, and is sent on.
"""

import sys


def _send_on() -> None:
    """Puts Python's own `inspect` in the place of this file."""
    import importlib.machinery
    import importlib.util
    import os

    here = os.path.dirname(os.path.abspath(__file__))
    others = [path for path in sys.path if os.path.abspath(path) != here]
    spec = importlib.machinery.PathFinder.find_spec('inspect', others)
    module = importlib.util.module_from_spec(spec)
    sys.modules['inspect'] = module
    spec.loader.exec_module(module)


if __name__ == 'inspect':
    _send_on()
elif __name__ == '__main__':
    import os

    from rt2_jax import command
    from rt2_jax.inspection import command as inspection

    inspection.define_flags()
    os.environ.setdefault('JAX_PLATFORMS', 'cpu')  # shapes alone are asked of JAX
    command.run('inspect', inspection.main)
