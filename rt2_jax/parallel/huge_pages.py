"""On a CPU under Linux, programs get their memory in pages of 2 MB.

XLA takes the memory of a program's temporaries anew at each call. glibc gives pieces of such a size back as
they are freed, and the system hands them out again page by page, cleared: with pages of 4 KB 250,000 times a
step of the tiny PaLI, two fifths of the CPU's time on a virtual machine (BUILD_NOTES.md). glibc asks for huge
pages where its tunable `glibc.malloc.hugetlb` says so, which it reads as a process starts (2.35 and newer).
"""

import importlib.metadata
import importlib.util
import os
import pathlib
import sys

import jax

_VARIABLE, _TUNABLE = 'GLIBC_TUNABLES', 'glibc.malloc.hugetlb'
_MODE = pathlib.Path('/sys/kernel/mm/transparent_hugepage/enabled')


def restart() -> None:
    """Starts this command anew with huge pages, where it computes on a CPU and who asks gets them.

    Where the tunable is set already, whatever to, nothing happens.
    """
    if tunables := wanted(os.environ.get(_VARIABLE, '')):
        os.execve(sys.executable, sys.orig_argv, os.environ | {_VARIABLE: tunables})


def wanted(tunables: str) -> str:
    """The value of GLIBC_TUNABLES that is needed in place of this one; '' where it may stay."""
    # In the other modes everyone has them, or nobody.
    asked_for = _MODE.exists() and '[madvise]' in _MODE.read_text()
    if _TUNABLE in tunables or not asked_for or not _on_cpu():
        return ''
    return ':'.join(filter(None, (tunables, f'{_TUNABLE}=1')))


def _on_cpu() -> bool:
    """Whether JAX will compute on the CPU, by what is asked for and installed."""
    if platforms := jax.config.values['jax_platforms']:
        return platforms.split(',')[0] == 'cpu'
    plugins = importlib.metadata.entry_points(group='jax_plugins')
    return not plugins and not any(map(importlib.util.find_spec, ('libtpu', 'jax_plugins')))
