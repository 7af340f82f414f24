"""The files of a web set that a pattern stands for.

*.tar                    what is there by that pattern; web servers don't list what they hold
part-{000..127}.tar      these 128, as WebDataset's users write it; each must be there
"""

from __future__ import annotations

from collections.abc import Iterator
import fnmatch
import os
import re

from etils import epath

from rt2_jax.data import files, remote_files
from rt2_jax.data.data_errors import DataSetError
from rt2_jax.nearest import beside

_NUMBERS = re.compile(r'\{(\d+)\.\.(\d+)\}')


def matching(directory: str, pattern: str) -> list[str]:
    """Names of files within a directory, in order.

    Raises:
        DataSetError: there are none, or one is missing.
    """
    folder = files.path(directory)
    if isinstance(folder, epath.Path) and not folder.exists():
        raise DataSetError(
            f'no data set at {directory}: there is no such directory{beside(directory)}'
        )
    if _NUMBERS.search(pattern):
        return _all_there(folder, _expanded(pattern))
    if isinstance(folder, remote_files.RemotePath):
        names = sorted(_listed(folder, pattern.split('/')))
    else:
        names = sorted(os.path.relpath(path, directory) for path in folder.glob(pattern))
    # macOS puts a file ._NAME beside each on foreign disks.
    names = [name for name in names if not os.path.basename(name).startswith('._')]
    if not names:
        raise DataSetError(f'{directory} has no file {pattern!r}; it holds {_holds(folder)}')
    return names


def _expanded(pattern: str) -> list[str]:
    braces = _NUMBERS.search(pattern)
    if braces is None:
        return [pattern]
    first, last = braces.groups()
    numbers = range(int(first), int(last) + 1)
    before, after = pattern[: braces.start()], _expanded(pattern[braces.end() :])
    return [f'{before}{number:0{len(first)}d}{rest}' for number in numbers for rest in after]


def _all_there(folder: files.Path, names: list[str]) -> list[str]:
    if not names:
        raise DataSetError(f'{folder}: the numbers in the pattern of the files run backwards')
    if missing := files.missing(folder / name for name in names):
        raise DataSetError(
            f'{folder} lacks {len(missing)} of {len(names)} files, first {missing[0].name}'
        )
    return names


def _listed(folder: remote_files.RemotePath, parts: list[str], before: str = '') -> Iterator[str]:
    """Names of objects, folder by folder: beside the files there may be millions of pictures."""
    first, rest = parts[0], parts[1:]
    if rest and not re.search(r'[*?[]', first):
        yield from _listed(folder / first, rest, f'{before}{first}/')
        return
    folders, objects = folder.names()
    for name in fnmatch.filter(folders if rest else objects, first):
        if rest:
            yield from _listed(folder / name, rest, f'{before}{name}/')
        else:
            yield before + name


def _holds(folder: files.Path) -> str:
    if isinstance(folder, remote_files.RemotePath):
        present = sorted(sum(folder.names(), []))
    else:
        present = sorted(path.name for path in folder.iterdir())
    return ', '.join(present[:8]) or 'nothing'
