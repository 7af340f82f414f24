"""Some episodes of a LeRobot data set whose card nobody has written yet, and all that is in them.

Nothing is copied: episodes lie apart in the files. Names of numbers and frames a second are what
meta/info.json says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from etils import epath
import numpy as np

from rt2_jax.data import robot_card
from rt2_jax.data.data_errors import CorruptFrame, CorruptRecord, DataSetError
from rt2_jax.data.drafting import episode_sample
from rt2_jax.data.drafting.episode_sample import Camera, Sample
from rt2_jax.data.readers import lerobot_directory, lerobot_episodes, lerobot_steps
from rt2_jax.data.readers.lerobot_directory import EpisodeFiles, Layout
from rt2_jax.data.readers.lerobot_episodes import LeRobot
from rt2_jax.data.readers.lerobot_reader import EpisodeReader
from rt2_jax.data.readers.lerobot_steps import StepReader

# What says which step a row is: no feature of a robot.
_PLACES = {*lerobot_steps.KEYS, 'index'}


def take(
    directory: epath.PathLike, split: str = 'train', most: int = episode_sample.EPISODES
) -> Sample:
    """Reads episodes that are spread evenly over the set.

    Args:
        directory: a LeRobot data set, of this machine or remote.
        split: which split.
        most: how many at most.

    Raises:
        DataSetError: no whole data set, or none of the episodes can be read.
    """
    features = lerobot_directory.info(directory)['features']
    cameras = [name for name, entry in features.items() if entry['dtype'] == 'video']
    layout = lerobot_directory.read(directory, cameras, split)
    schema = episode_sample.in_order(lerobot_episodes.schema_of(features))
    sample = Sample(epath.Path(directory), schema, len(layout.episodes), {}, rate=layout.fps)
    sample.names = {
        f'steps/{name}': names for name, entry in features.items() if (names := _names(entry))
    }
    columns = [name for name, entry in features.items() if name not in _PLACES and _is_short(entry)]
    reader = StepReader(
        directory, cameras, columns, layout, lerobot_directory.file_numbers(layout.episodes)
    )
    for episode in _spread(layout, most):
        try:
            steps = reader.steps(episode)
            _look(sample, reader, episode, steps['timestamp'].reshape(-1), cameras)
        except ValueError as error:
            sample.unreadable.append(f'{directory}, episode {episode.number}: {error}')
        else:
            sample.add(episode.steps, *_contents(steps))
    if not sample.episodes:
        reason = sample.unreadable[0] if sample.unreadable else f'split {split!r} has none'
        raise DataSetError(f'{directory}: none of the sampled episodes is of use: {reason}')
    return sample


def try_card(directory: epath.PathLike, card: robot_card.RobotCard, split: str) -> list[str]:
    """Reads some episodes by a card and says what is wrong with some; raises where all are unreadable."""
    source = LeRobot(directory, card, split).prepare()
    numbers = lerobot_directory.file_numbers(source.layout.episodes)
    reader = EpisodeReader(directory, card, source.layout, numbers)
    errors, episodes = [], _spread(source.layout, episode_sample.LOOKED_AT)
    for episode in episodes:
        try:
            reader.read(episode)
        except CorruptRecord as error:
            errors.append(error)
    if len(errors) == len(episodes):
        raise errors[0]
    return [str(error) for error in errors]


def _spread(layout: Layout, most: int) -> list[EpisodeFiles]:
    total = len(layout.episodes)
    wanted = np.unique(np.linspace(0, max(total - 1, 0), min(most, total)).round().astype(int))
    return [layout.episodes[number] for number in wanted]


def _is_short(entry: Mapping[str, Any]) -> bool:
    dtype, size = entry['dtype'], int(np.prod(entry['shape']))
    if dtype in ('video', 'image'):
        return False
    is_whole = dtype.startswith(('int', 'uint'))
    most = episode_sample.MOST_INTEGERS if is_whole else episode_sample.MOST_FLOATS
    return dtype == 'string' or 0 < size <= most


def _names(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """What info.json calls the numbers of a vector; () where it does not name each."""
    names = lerobot_directory.number_names(entry)
    is_vector = entry['dtype'] not in ('video', 'image') and len(entry['shape']) == 1
    return tuple(map(str, names)) if is_vector and len(names) == entry['shape'][0] else ()


def _contents(steps: Mapping[str, np.ndarray]) -> tuple[dict[str, Any], dict[str, Any]]:
    """An episode's numbers and texts by the schema's paths. A number's last value is the episode's, too."""
    numbers: dict[str, Any] = {}
    texts: dict[str, Any] = {}
    for name, values in steps.items():
        if name in _PLACES:
            continue
        if values.dtype == object:
            texts[f'steps/{name}'] = values.tolist()
            continue
        numbers[f'steps/{name}'] = values.astype(np.float64)
        if name != lerobot_steps.IS_LAST:
            numbers[name] = values[-1].astype(np.float64)
    return numbers, texts


def _look(
    sample: Sample,
    reader: StepReader,
    episode: EpisodeFiles,
    times: np.ndarray,
    cameras: Sequence[str],
) -> None:
    """Decodes the middle picture of each camera."""
    middle = times[len(times) // 2 :][:1]
    for view, name in enumerate(cameras):
        camera = sample.cameras.setdefault(f'steps/{name}', Camera())
        if camera.looked_at < episode_sample.LOOKED_AT:
            try:
                camera.look(next(reader.pictures(episode, middle, view)))
            except CorruptFrame:
                continue
        camera.complete += 1
