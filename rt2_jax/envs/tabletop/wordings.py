"""Instructions that people type: which of them a scene offers, and which task a text means.

The robot is given the text as it stands. What it means here only decides what counts as success.
"""

import re

from rt2_jax.data.web.pictures import Picture
from rt2_jax.envs.tabletop import tasks
from rt2_jax.envs.tabletop.scene import Scene

_VERBS = {
    'pick': r'pick(?: up)?|grab|take|lift|grasp|get|raise',
    'push': r'push|move|put|bring|shove|slide|place',
    'turn': r'turn|rotate|spin',
}


def offered(scene: Scene) -> list[str]:
    """Instructions that this scene can play, as the robot's episodes word them.

    The scene's own comes first; each kind of task is among them.
    """
    names = scene.names()
    texts = [scene.task.instruction]
    texts += [tasks.phrase('pick', name) for name in names]
    texts += [tasks.phrase('push', x, y) for x, y in zip(names, names[1:] + names[:1])]
    texts += [tasks.phrase('turn', names[0], direction=side) for side in tasks.DIRECTIONS]
    return list(dict.fromkeys(texts))


def understood(text: str, scene: Scene) -> tuple[tasks.Task, tuple[int, ...]] | None:
    """The task that a text means in a scene, and the order of the tiles that it is judged in.

    Args:
        text: in any wording that has one of the verbs and names of tiles: their names in any
            language of the pictures, or a category that one tile alone is of.
        scene: whose tiles are meant.

    Returns:
        The task, and the numbers of all tiles with X first and, of a push, Y second; None where
        the text is not understood. The scene's own instruction is always understood.
    """
    tiles = range(len(scene.tiles))
    if _plain(text) == _plain(scene.task.instruction):
        return scene.task, tuple(tiles)
    words = f' {_plain(text)} '
    kind = next((kind for kind in _VERBS if re.search(rf'\b(?:{_VERBS[kind]})\b', words)), None)
    direction = next((side for side in tasks.DIRECTIONS if f' {side} ' in words), '')
    mentioned = _mentioned(words, [tile.picture for tile in scene.tiles])
    needed = 2 if kind == 'push' else 1
    if kind is None or len(mentioned) < needed or (kind == 'turn') != bool(direction):
        return None
    order = (*mentioned[:needed], *(tile for tile in tiles if tile not in mentioned[:needed]))
    names = [scene.tiles[tile].name for tile in order]
    plan = tasks.phrase(kind, names[0], names[1] if needed == 2 else '', direction)
    return tasks.Task(kind=kind, direction=direction, instruction=text, plan=plan), order


def _mentioned(words: str, pictures: list[Picture]) -> list[int]:
    """Numbers of the pictures that a text names, in the order of the text."""
    places = {}
    for number, picture in enumerate(pictures):
        others = [other for other in pictures if other is not picture]
        names = set(picture.names.values()) | {picture.name}
        if picture.category not in {other.category for other in others}:
            names.add(picture.category)
        starts = [words.find(f' {_plain(name)} ') for name in names]
        if starts := [start for start in starts if start >= 0]:
            places[number] = min(starts)
    return sorted(places, key=lambda number: places[number])


def _plain(text: str) -> str:
    return ' '.join(re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text.lower()))
