"""Reads the episodes of a LeRobot data set by a card."""

from __future__ import annotations

from collections.abc import Mapping

from etils import epath

from rt2_jax.data import files, robot_card
from rt2_jax.data.data_errors import CorruptEpisode, CorruptRecord
from rt2_jax.data.index.episode_columns import Episode
from rt2_jax.data.readers import rlds_episodes
from rt2_jax.data.readers.lerobot_directory import EpisodeFiles, Layout
from rt2_jax.data.readers.lerobot_steps import StepReader


class EpisodeReader:
    """Reads episodes by a card; a CorruptRecord where one can't be what the card says.

    Args:
        directory: the data set, local or remote.
        card: what its features mean.
        layout: what its folder `meta` says.
        numbers: of its files, by name.
    """

    def __init__(
        self,
        directory: epath.PathLike,
        card: robot_card.RobotCard,
        layout: Layout,
        numbers: Mapping[str, int],
    ) -> None:
        self._folder, self._card = files.path(directory), card
        names = {path.removeprefix('/') for path in card.paths} - set(card.images)
        self._stored = StepReader(directory, card.images, names, layout, numbers)

    def read(self, episode: EpisodeFiles) -> Episode:
        """An episode, without pictures.

        Raises:
            CorruptFrame: a video is missing or damaged, or has no frame for a step.
            CorruptEpisode: the table is missing or damaged, or lacks what the card names.
        """
        try:
            return self._read(episode)
        except CorruptRecord:
            raise
        except ValueError as problem:
            path = self._folder / episode.table
            raise CorruptEpisode(path, episode.number, str(problem)) from problem

    def _read(self, episode: EpisodeFiles) -> Episode:
        card, steps = self._card, self._stored.steps(episode)
        actions = card.to_action(steps)
        kept = card.examples(actions)
        rlds_episodes.check_finite(actions, kept, card.action_space.number_names)
        pictures, checksums, frames = self._stored.frames(
            episode, steps['timestamp'].reshape(-1)[kept]
        )
        texts = {path for path in card.kept_columns if steps[path].dtype == object}
        return Episode(
            offset=0,  # it has no place of its own in the table
            length=episode.steps,
            success=int((steps[card.success][-1] > 0).all()) if card.success else -1,
            actions=actions[kept],
            pictures=pictures,
            checksums=checksums,
            instructions=steps[card.instruction][kept].tolist(),
            columns=[
                steps[path][kept].tolist() if path in texts else steps[path][kept]
                for path in card.kept_columns
            ],
            gripper=card.gripper_values(steps)[kept] if card.gripper else None,
            dropped_first=kept.start,
            dropped_last=episode.steps - kept.stop,
            frames=frames,
        )
