"""The `data` part of a config as types: the data sets, how they are mixed, and what a batch holds.

    data = DataConfig.from_config(config.data)
    data.robot['tabletop'].holdout

Each dataclass is the list of the fields that its part of a config may have.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from typing import Any

from rt2_jax.data.augmentation import Augmentation
from rt2_jax.data.data_errors import ON_CORRUPT
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.data.schedules import Schedule
from rt2_jax.data.task_settings import TaskSettings
from rt2_jax.data.web.small_web import SmallWeb
from rt2_jax.nearest import check, check_fields

WEIGHTS_PER = ('source', 'step')
SHOWS = ('history', 'progress')
POINTING = ('', 'column')
STATES = ('', 'card', 'q01-q99')
WEB_KINDS = ('tfds', 'webdataset', 'jsonl')


@dataclasses.dataclass(frozen=True)
class RobotSet:
    """`config.data.robot.NAME`: an RLDS or LeRobot data set, and what is asked about its steps.

    Attributes:
        directory: a TFDS data set in RLDS form, or a LeRobot data set (the folder says which): a folder
            of this machine, gs://, s3:// or http(s)://.
        card: its card, the card's name, or FILE.json (see cards).
        name: NAME; that of the card if empty.
        weight: within the robots' share of a batch (see `DataConfig.weights_per`); 0 for a set whose
            actions nobody learns, as it is only asked about (`questions`).
        split: which split of the set.
        location: folder of the index, of this machine or of a bucket; for the default see
            `index_places.place`.
        episodes: use the first N episodes after all other filters; None for all.
        success_only: use only episodes marked successful.
        holdout: share in (0, 1), or number, of the episodes that are held out (see splits).
        frames: frames an example, oldest first, the last one the step's own. The episode's first frame
            stands in for those before its start. In a config as `DataConfig.frames`.
        frame_stride: steps from one of these frames to the next. In a config as
            `DataConfig.frame_stride`.
        action_frames: as `DataConfig.action_frames`.
        shows: 'history', the frames up to a step and its action; or 'progress', frames of a whole
            episode and no action, see `robot/progress.py`.
        pointing: '' or 'column': instructions have places for things (`text/pointed.py`), those of the
            episode's first step, by the columns of `robot/visible_things.py`.
        camera: number of the camera among the card's `images`, where `cameras` names none.
        cameras: the cameras that are shown, of the card's names (`RobotCard.cameras`) or paths, in the
            order of `DataConfig.cameras`; by default those.
        state: as `DataConfig.state`, which it is by default.
        bounds: where the ranges of the actions come from, a key of action_statistics.BOUNDS.
        missing_instructions: 'drop' leaves out episodes with a step that has no instruction, 'raise'
            refuses such data.
        plan_share: share in [0, 1] of the steps that are answered with a plan first.
        plans: where plans come from: 'grounded', 'instruction', 'column:PATH', or a .json or .jsonl
            file (see plan_files).
        plans_missing: 'raise' or 'act', for steps without a plan.
        tasks: prediction tasks; None for none.
        questions: weight, within the web's share, of questions about the frames (frame_questions).
        paraphrases: a JSON file of other words for instructions (see paraphrases).
        paraphrase_keep: share in [0, 1] of the steps that keep the instruction as it is.
        on_corrupt: as `DataConfig.on_corrupt`.
    """

    directory: str
    card: str | RobotCard
    name: str = ''
    weight: Schedule = Schedule(start=1.0)
    split: str = 'train'
    location: str | None = None
    episodes: int | None = None
    success_only: bool = False
    holdout: float = 0
    frames: int = 1
    frame_stride: int = 1
    action_frames: str = 'last'
    shows: str = 'history'
    pointing: str = ''
    camera: int = 0
    cameras: tuple[str, ...] = ()
    state: str = ''
    bounds: str = 'card'
    missing_instructions: str = 'drop'
    plan_share: float = 0.0
    plans: str = 'grounded'
    plans_missing: str = 'raise'
    tasks: TaskSettings | None = None
    questions: Schedule = Schedule(start=0.0)
    paraphrases: str = ''
    paraphrase_keep: float = 0.5
    on_corrupt: str = 'raise'

    def __post_init__(self) -> None:
        check('on_corrupt', self.on_corrupt, ON_CORRUPT)
        check(f'config.data.robot.{self.name}.shows', self.shows, SHOWS)
        check(f'config.data.robot.{self.name}.pointing', self.pointing, POINTING)
        if not 0 <= self.plan_share <= 1:
            raise ValueError(
                f'config.data.robot.{self.name}.plan_share must be 0 to 1, not {self.plan_share}'
            )
        check(f'config.data.robot.{self.name}.state', self.state, STATES)
        object.__setattr__(self, 'cameras', _camera_names(f'config.data.robot.{self.name}', self))
        if self.cameras and self.camera:
            raise ValueError(
                f'config.data.robot.{self.name} has camera={self.camera} and cameras={self.cameras}; '
                'set one of them'
            )

    @classmethod
    def from_config(cls, path: str, fields: Mapping[str, Any], data: DataConfig) -> RobotSet:
        """From the fields of `path`, whose last part is the set's name.

        Raises:
            ValueError: an unknown field, with the nearest valid one; one that is missing; frames other
                than `data` has.
        """
        valid = _names(cls) - {'name', 'on_corrupt', 'action_frames'}
        fields = check_fields(path, fields, valid, ('directory', 'card', 'weight'))
        for name in ('frames', 'frame_stride'):
            value = getattr(data, name)
            if fields.setdefault(name, value) != value:
                raise ValueError(
                    f'{path}.{name}={fields[name]}, but config.data.{name}={value}, which the model '
                    'and the policy go by; set that one'
                )
        fields['cameras'] = fields.get('cameras') or data.cameras
        if len(fields['cameras']) != len(data.cameras):
            raise ValueError(
                f'{path}.cameras={fields["cameras"]}, but config.data.cameras={data.cameras}, by which the '
                'policy calls them; as many of each are needed, in the same order'
            )
        fields.setdefault('state', data.state)
        for name in ('weight', 'questions'):
            if name in fields:
                fields[name] = Schedule.from_config(fields[name], f'{path}.{name}')
        tasks = fields.pop('tasks', None)
        return cls(
            **fields,
            name=path.rpartition('.')[2],
            tasks=TaskSettings.from_config(f'{path}.tasks', tasks) if tasks else None,
            action_frames=data.action_frames,
            on_corrupt=data.on_corrupt,
        )


@dataclasses.dataclass(frozen=True)
class WebSet:
    """`config.data.web.NAME`: pictures and texts of a file format, and what is asked about them.

    An epoch holds every selected record `passes` times, as far as languages aren't weighted.

    Attributes:
        kind: the format, of WEB_KINDS.
        directory: where it is: a folder of this machine, gs://, s3:// or http(s)://.
        tasks: task (see web/tasks.py) -> how often; among those that a record has the texts for.
        name: NAME.
        weight: within the web's share of a batch.
        card: a card or its name (see web_cards); by default that of its kind, for TFDS an empty one.
        fields: paths that take the place of the card's, by field.
        split: which split of a TFDS set.
        files: pattern of the shards or JSONL files, within the directory (see file_patterns).
        pictures: of JSONL, the folder that pictures' names are relative to, or its address.
        location: folder of the index, of this machine or of a bucket; for the default see
            `index_places.place`.
        wording: how questions are worded, 'rt2' or 'pali'.
        languages: language -> weight; languages left out aren't used. Empty: as in the data.
        temperature: instead of weights, 1 keeps the data's own shares of languages, more raises those
            of rare ones: they go with count ** (1 / temperature).
        keep_top: share in (0, 1] of the records, by score, that are kept (PaLI keeps 0.1 of WebLI).
        min_score: the lowest score that is kept; None for all.
        holdout: share in (0, 1), or number, of the records that are held out (see splits).
        most_boxes: objects that an answer of `detect` names at most.
        passes: how often an epoch goes over the records; which of several captions, answers and tasks
            it is, is drawn anew each time.
        seed: another seed draws others.
        on_corrupt: as `DataConfig.on_corrupt`.
    """

    kind: str
    directory: str
    tasks: Mapping[str, float]
    name: str = 'web'
    weight: Schedule = Schedule(start=1.0)
    card: Any = ''
    fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    split: str = 'train'
    files: str = ''
    pictures: str = ''
    location: str | None = None
    wording: str = 'rt2'
    languages: Mapping[str, float] = dataclasses.field(default_factory=dict)
    temperature: float = 1.0
    keep_top: float = 1.0
    min_score: float | None = None
    holdout: float = 0
    most_boxes: int = 8
    passes: int = 1
    seed: int = 0
    on_corrupt: str = 'raise'

    def __post_init__(self) -> None:
        check('kind of web set', self.kind, WEB_KINDS)
        check('on_corrupt', self.on_corrupt, ON_CORRUPT)

    @classmethod
    def from_config(cls, path: str, fields: Mapping[str, Any], data: DataConfig) -> WebSet:
        """As `RobotSet.from_config`."""
        valid = _names(cls) - {'name', 'on_corrupt'}
        fields = check_fields(path, fields, valid, ('directory', 'tasks', 'weight'))
        for name in ('tasks', 'fields', 'languages'):
            fields[name] = dict(fields.get(name) or {})
        fields['weight'] = Schedule.from_config(fields['weight'], f'{path}.weight')
        return cls(**fields, name=path.rpartition('.')[2], on_corrupt=data.on_corrupt)


@dataclasses.dataclass(frozen=True)
class SmallWebSet:
    """`config.data.web.NAME` of the kind 'small': its fields are those of SmallWeb, and `weight`.

    Attributes:
        source: the small web, made up as it is read.
        weight: within the web's share of a batch.
        holdout: none of it can be held out.
    """

    source: SmallWeb
    weight: Schedule
    holdout: float = 0

    @property
    def name(self) -> str:
        """NAME."""
        return self.source.name

    @classmethod
    def from_config(cls, path: str, fields: Mapping[str, Any], data: DataConfig) -> SmallWebSet:
        """As `RobotSet.from_config`.

        Raises:
            ValueError: and where some of it is to be held out.
        """
        valid = _names(SmallWeb) - {'name', 'size'} | {'kind', 'weight', 'holdout'}
        fields = check_fields(path, fields, valid, ('weight',))
        del fields['kind']
        if fields.pop('holdout', 0):
            raise ValueError(
                f'{path}.holdout: the small web is made up as it is read, so none of it can be held '
                'out; validate on one of another seed, in config.validation.web'
            )
        weight = Schedule.from_config(fields.pop('weight'), f'{path}.weight')
        if kinds := dict(fields.pop('kinds', {})):
            fields['kinds'] = kinds
        name = path.rpartition('.')[2]
        return cls(SmallWeb(name=name, size=data.image_size, **fields), weight)


@dataclasses.dataclass(frozen=True)
class DataConfig:
    """`config.data`.

    Attributes:
        image_size: side S of the square frames, pixels.
        prompt_length: tokens a prompt, P.
        target_length: tokens a target with EOS, T.
        frames: frames an example, F, oldest first.
        frame_stride: steps from one of them to the next.
        cameras: names of the cameras that an example shows at each of these frames, which the policy
            and its clients call them by; empty for one camera, which a set's `camera` chooses.
        state: '' for prompts without the robot's state, or where the ranges of its numbers come from: the
            'card', or the data's 'q01-q99' (see action_statistics.BOUNDS).
        action_frames: which frames' actions a target holds, oldest first: of the 'last' or of 'all'.
            Before an episode's start its first action stands in, as its first frame does.
        robot: robot sets, by name.
        web: the other sets, by name.
        robot_share: the robots' share of a batch, by step.
        weights_per: what a robot set's weight counts for: the whole 'source', or each 'step' of it.
        augment: what happens to frames at random.
        on_corrupt: what becomes of an example that can't be read: 'raise', or 'skip': the next readable
            one takes its place, which is logged and counted.
        threads: threads that read.
        read_ahead: batches ready ahead of use.
    """

    image_size: int
    prompt_length: int
    target_length: int
    frames: int = 1
    frame_stride: int = 1
    cameras: tuple[str, ...] = ()
    state: str = ''
    action_frames: str = 'last'
    robot: Mapping[str, RobotSet] = dataclasses.field(default_factory=dict)
    web: Mapping[str, WebSet | SmallWebSet] = dataclasses.field(default_factory=dict)
    robot_share: Schedule = Schedule()
    weights_per: str = 'source'
    augment: Augmentation = Augmentation()
    on_corrupt: str = 'raise'
    threads: int = 2
    read_ahead: int = 2

    def __post_init__(self) -> None:
        check('data.weights_per', self.weights_per, WEIGHTS_PER)
        check('data.action_frames', self.action_frames, ('last', 'all'))
        check('data.on_corrupt', self.on_corrupt, ON_CORRUPT)
        check('config.data.state', self.state, STATES)
        object.__setattr__(self, 'cameras', _camera_names('config.data', self))
        if self.action_frames == 'all' and len(self.cameras) > 1:
            raise ValueError(
                "config.data.action_frames is 'all': an action for each frame; set one camera, not "
                f'{self.cameras}'
            )

    @property
    def pictures(self) -> int:
        """Pictures an example: of each frame one a camera, oldest first, cameras in their order."""
        return count_pictures({'frames': self.frames, 'cameras': self.cameras})

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> DataConfig:
        """From a config's `data` part.

        Raises:
            ValueError: an unknown field, at any depth, with its path and the nearest valid name; one
                that is missing, or a value that can't be.
        """
        required = ('image_size', 'prompt_length', 'target_length')
        fields = check_fields('config.data', config, _names(cls), required)
        robot, web = fields.pop('robot', {}), fields.pop('web', {})
        if 'robot_share' in fields:
            share = Schedule.from_config(fields['robot_share'], 'config.data.robot_share')
            fields['robot_share'] = share
        if 'augment' in fields:
            fields['augment'] = Augmentation.from_config(fields['augment'])
        data = cls(**fields)
        return dataclasses.replace(
            data, robot=data.robot_sets('config.data', robot), web=data.web_sets('config.data', web)
        )

    def robot_sets(self, path: str, sets: Mapping[str, Any]) -> dict[str, RobotSet]:
        """The sets of `path`.robot, shown as this config says."""
        return {
            name: RobotSet.from_config(f'{path}.robot.{name}', fields, self)
            for name, fields in sets.items()
        }

    def web_sets(self, path: str, sets: Mapping[str, Any]) -> dict[str, WebSet | SmallWebSet]:
        """The sets of `path`.web, by default of the kind 'small'."""
        opened: dict[str, WebSet | SmallWebSet] = {}
        for name, fields in sets.items():
            place = f'{path}.web.{name}'
            fields = {'kind': 'small', **fields}
            kind = check(f'{place}.kind', fields['kind'], ('small', *WEB_KINDS))
            cls = SmallWebSet if kind == 'small' else WebSet
            opened[name] = cls.from_config(place, fields, self)
        return opened


def count_pictures(data: Mapping[str, Any]) -> int:
    """`DataConfig.pictures` of a config's `data` part."""
    return data['frames'] * max(1, len(data.get('cameras', ())))


def _camera_names(path: str, fields: Any) -> tuple[str, ...]:
    """The field `cameras` as a tuple; ValueError for anything but different names."""
    names = fields.cameras
    valid = isinstance(names, (list, tuple)) and all(isinstance(name, str) for name in names)
    if not valid or '' in names:
        raise ValueError(f"{path}.cameras is {names!r}; names are needed: ('image', 'wrist_image')")
    if len(set(names)) < len(names):
        raise ValueError(f'{path}.cameras names a camera twice: {tuple(names)}')
    return tuple(names)


def _names(cls: type) -> set[str]:
    return {field.name for field in dataclasses.fields(cls)}
