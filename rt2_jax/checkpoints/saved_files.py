"""The list of a checkpoint's files with their sizes, by which missing and truncated ones are found."""

import json

from etils import epath

from rt2_jax import paths

FILES = 'files.json'


def sizes(folder: epath.Path) -> dict[str, int]:
    """Bytes of every file in the items of a step's folder, by its path there."""
    return {name: size for name, size in paths.files(folder).items() if '/' in name}


def wrong(folder: epath.Path, prefix: str = '') -> list[str]:
    """Says which files of a step's folder are not as they were saved.

    Args:
        folder: the step's; one of before there was a list has no wrong files.
        prefix: only files whose path begins so.
    """
    if not (folder / FILES).exists():
        return []
    try:
        saved = json.loads((folder / FILES).read_text())
    except json.JSONDecodeError as error:
        return [f'{FILES} is damaged: {error}']
    found = sizes(folder)
    return [
        f'{name} is missing'
        if name not in found
        else f'{name} has {found[name]:,} of {size:,} bytes'
        for name, size in saved.items()
        if name.startswith(prefix) and found.get(name) != size
    ]
