"""What `evaluate` is to measure: its flags as values, and which of them go together."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import importlib.util
import math
from typing import Any

from absl import flags

from rt2_jax import paths
from rt2_jax.decoding import compact
from rt2_jax.envs.world import World, find_suite
from rt2_jax.errors import MissingPackage, UserError
from rt2_jax.nearest import check
from rt2_jax.parallel import distributed
from rt2_jax.policy.from_flags import FlagError

FLAGS = flags.FLAGS

POLICIES = ('checkpoint', 'untrained', 'expert', 'expert_rounded')
OFFLINE = ('offline', 'web', 'held_out', 'swap')
# What no episode that is played depends on.
_OF_THE_REST = {
    'suite', 'episodes', 'first_episode', 'parallel', 'mesh', 'output', 'video', 'video_episodes', 'data',
    'questions', 'web_seed',
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure: the flags of the command, which describe them."""

    workdir: str | None = None
    step: int | None = None
    source: str = ''
    server: str | None = None
    data: str | None = None
    suite: Sequence[str] = ('seen',)
    task: str | None = None
    episodes: int = 50
    first_episode: int = 0
    questions: int = 1000
    web_seed: int = 1_000_003
    policy: str = 'checkpoint'
    plan: bool | None = None
    temperature: float = 0.0
    smoothing: float | None = None
    terminate_threshold: float = 0.5
    patience: int = 1
    execution_noise: float = 0.0
    parallel: int = 16
    weights: str = compact.STORED
    mesh: Sequence[str] = ()
    image_size: int = 128
    output: str | None = None
    video: str | None = None
    video_episodes: int = 12

    @classmethod
    def from_flags(cls) -> Options:
        """The options on the command line."""
        values: dict[str, Any] = FLAGS.flag_values_dict()
        return cls(**{field.name: values[field.name] for field in dataclasses.fields(cls)})

    @property
    def played(self) -> list[str]:
        """The suites that are played in closed loop."""
        return [suite for suite in self.suite if suite not in OFFLINE]

    @property
    def world(self) -> World | None:
        """The world of the suites that are played; None where none is."""
        return find_suite(self.played[0])[0] if self.played else None

    @property
    def seeds(self) -> Sequence[int]:
        """The episodes of a suite that this process plays."""
        return distributed.share(range(self.first_episode, self.first_episode + self.episodes))

    def of_an_episode(self) -> dict[str, Any]:
        """The options that an episode depends on, as plain values."""
        names = {field.name for field in dataclasses.fields(self)}
        return {name: getattr(self, name) for name in sorted(names - _OF_THE_REST)}

    def check(self) -> None:
        """FlagError for names that don't exist and for options that don't go together."""
        offline_suites = set(self.suite) & set(OFFLINE)
        if not self.suite:
            raise FlagError('--suite names no suite')
        try:
            worlds = {find_suite(suite, OFFLINE)[0].name for suite in self.played}
            check('policy', self.policy, POLICIES)
            if self.world and self.task is not None:
                check('task', self.task, self.world.tasks)
            for address in filter(None, (self.output, self.video)):
                paths.of(address)
        except (ValueError, UserError) as error:
            raise FlagError(str(error)) from error
        if len(worlds) > 1:
            raise FlagError(
                f'--suite names suites of {" and ".join(sorted(worlds))}: one call measures a policy in one '
                'world, as its actions are those of one robot.'
            )
        if self.server:
            if self.workdir or self.policy != 'checkpoint' or offline_suites:
                raise FlagError(
                    '--server plays the suites of a world with the policy that is served: leave '
                    f'out --workdir, --policy and the suites {", ".join(OFFLINE)}.'
                )
        elif self.policy in ('checkpoint', 'untrained') and not self.workdir:
            raise FlagError(f'--policy={self.policy} needs --workdir or --server.')
        if self.policy.startswith('expert') and offline_suites:
            raise FlagError(f'The suites {", ".join(OFFLINE)} are for models, not for the expert.')
        if self.policy.startswith('expert') and self.world and not self.world.has_expert:
            raise FlagError(f'--policy={self.policy}: {self.world.name} has no scripted expert.')
        if ('swap' in self.suite) != bool(self.data):
            raise FlagError(
                '--suite=swap and --data, the episodes that it asks about, go together.'
            )
        if not self.played and self.video:
            raise FlagError(
                '--video needs a suite that is played, in the tabletop or another world.'
            )
        if self.video and not importlib.util.find_spec('imageio_ffmpeg'):
            raise MissingPackage('--video', 'imageio-ffmpeg', remedy='pip install imageio-ffmpeg')
        if self.video and paths.of(self.video).suffix != '.mp4':
            raise FlagError(f'--video={self.video}: name a file that ends in .mp4')
        for flag, path in (('--output', self.output), ('--video', self.video)):
            if path and paths.of(path).is_dir():
                raise FlagError(f'{flag}={paths.of(path)} is a directory; name a file')
        if self.output and self.video and paths.of(self.output) == paths.of(self.video):
            raise FlagError('--output and --video name one file')
        for name in ('execution_noise', 'temperature'):
            if not math.isfinite(getattr(self, name)):
                raise FlagError(f'--{name}={getattr(self, name)} is no number')
