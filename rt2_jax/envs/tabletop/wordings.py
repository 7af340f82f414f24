"""Instructions that people type: which of them a scene offers, what a text means, what came of it.

The robot is given the text as it stands. What it means here only decides what counts as success.
"""

import math
import re

from rt2_jax.data.web.pictures import Picture
from rt2_jax.envs.tabletop import tasks
from rt2_jax.envs.tabletop.scene import Scene
from rt2_jax.envs.tabletop.table_state import State
from rt2_jax.text import prompts

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
    texts += [prompts.phrase('pick', name) for name in names]
    texts += [prompts.phrase('push', x, y) for x, y in zip(names, names[1:] + names[:1])]
    texts += [prompts.phrase('turn', names[0], direction=side) for side in tasks.DIRECTIONS]
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
    # Names come out first: a right arrow is no direction.
    mentioned, words = _mentioned(f' {_plain(text)} ', [tile.picture for tile in scene.tiles])
    kind = next((kind for kind in _VERBS if re.search(rf'\b(?:{_VERBS[kind]})\b', words)), None)
    direction = next((side for side in tasks.DIRECTIONS if f' {side} ' in words), '')
    needed = 2 if kind == 'push' else 1
    if kind is None or len(mentioned) < needed or (kind == 'turn' and not direction):
        return None
    order = (*mentioned[:needed], *(tile for tile in tiles if tile not in mentioned[:needed]))
    names = [scene.tiles[tile].name for tile in order]
    plan = prompts.phrase(kind, names[0], names[1] if needed == 2 else '', direction)
    return tasks.Task(kind=kind, direction=direction, instruction=text, plan=plan), order


def outcome(task: tasks.Task, names: tuple[str, ...], start: State, now: State) -> str:
    """What became of a task, in words with a measure.

    Args:
        task: the task.
        names: of the tiles, X first and, of a push, Y second; the tiles of the states as well.
        start: the state when the instruction was given.
        now: the state to describe.

    Returns:
        For example 'the banana is 7 cm above the table'.
    """
    x, x_start = now.tiles[0], start.tiles[0]
    if task.kind == 'pick':
        if x.z < 0.01:
            return f'the {names[0]} still lies on the table'
        return f'the {names[0]} is {100 * x.z:.0f} cm above the table'
    if x.upright <= tasks.FLAT:
        return f'the {names[0]} does not lie flat'
    if task.kind == 'turn':
        degrees = math.degrees(tasks.wrap(x.yaw - x_start.yaw))
        side = 'left' if degrees > 0 else 'right'
        return f'the {names[0]} was turned {abs(degrees):.0f} degrees to the {side}'
    y, y_start = now.tiles[1], start.tiles[1]
    if math.hypot(y.x - y_start.x, y.y - y_start.y) >= tasks.SHOVED:
        return f'the {names[1]} was shoved away'
    apart = 100 * math.hypot(x.x - y.x, x.y - y.y)
    if x.z >= 0.02:
        return f'the {names[0]} does not lie on the table'
    near = 100 * tasks.TOGETHER
    return f'the {names[0]} is {apart:.0f} cm from the {names[1]}; {near:.0f} cm is near enough'


def _mentioned(words: str, pictures: list[Picture]) -> tuple[list[int], str]:
    """Numbers of the pictures that a text names, in its order, and the text without their names."""
    names = []
    for number, picture in enumerate(pictures):
        texts = {*picture.names.values(), picture.name}
        if [other.category for other in pictures].count(picture.category) == 1:
            texts.add(picture.category)
        names += [(f' {_plain(text)} ', number) for text in texts]
    places: dict[int, int] = {}
    for name, number in sorted(names, key=lambda pair: -len(pair[0])):  # 'cat food' before 'cat'
        if (start := words.find(name)) >= 0:
            places[number] = min(start, places.get(number, start))
            words = words.replace(name, f' {"_" * (len(name) - 2)} ')
    return sorted(places, key=lambda number: places[number]), words


def _plain(text: str) -> str:
    return ' '.join(re.findall(r"[^\W_]+(?:[-'][^\W_]+)*", text.lower()))
