"""Drafts the card of a robot data set that has none: a JSON file to be checked by a person.

    python -m rt2_jax.data.draft_card --dataset=DIR --output=my_arm.json

reads the schema and up to 200 episodes spread over the set, guesses every field of a RobotCard (see
rt2_jax/data/robot_card.py), and says of each what was guessed, why, and what a person must CHECK. The
card is tried on the sampled episodes before it is written. The file is taken wherever a card's name is.

What a card can't say: several grippers, a base beside the arm, several instructions a step, a terminate
flag within a vector. Such features are left out, and named.
"""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
import json
import math
import re
import tempfile

from absl import app, flags, logging
from etils import epath
import numpy as np

from rt2_jax import command, paths
from rt2_jax.data.data_errors import CardError, DataSetError
from rt2_jax.data.drafting import (
    episode_sample,
    guessed_action,
    guessed_features,
    guessed_gripper,
    lerobot_sample,
)
from rt2_jax.data.drafting.episode_sample import Sample
from rt2_jax.data.drafting.guess import Guess
from rt2_jax.data.readers import lerobot_directory, tfds_directory
from rt2_jax.data.robot import rlds
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text.actions import ActionSpace

FLAGS = flags.FLAGS
# `drop_zero_first` is guessed where the first step moves nothing in at least this share of the episodes,
# and of all steps few more than these move nothing.
_NULL_FIRST, _STILL = 0.8, 0.2


@dataclasses.dataclass(frozen=True)
class Draft:
    """A drafted card.

    Attributes:
        card: the card.
        guesses: what was guessed, by field, in the order of the report.
        sampled: how many episodes it rests on.
        declared: how many the set has.
        unreadable: why sampled episodes were left out.
    """

    card: RobotCard
    guesses: tuple[Guess, ...]
    sampled: int
    declared: int
    unreadable: tuple[str, ...] = ()


def draft(
    directory: epath.PathLike,
    *,
    split: str = 'train',
    images: Sequence[str] = (),
    instruction: str = '',
    action: Sequence[str] = (),
    frequency: float = 0.0,
    episodes: int = episode_sample.EPISODES,
) -> Draft:
    """Drafts the card of a data set, and opens the sampled episodes with it.

    Args:
        directory: a TFDS data set in RLDS form, or a LeRobot data set, of this machine or remote.
        split: which split.
        images: the cameras, as a card names them, in place of a guess.
        instruction: likewise.
        action: the features of the action, likewise.
        frequency: the control rate, Hz; 0 if it isn't known.
        episodes: how many are looked at, at most.

    Raises:
        DataSetError: no data set, or a field that can't be guessed; names what it could be.
    """
    with tempfile.TemporaryDirectory(prefix='rt2_jax_draft_') as folder:
        try:
            is_lerobot = lerobot_directory.is_lerobot(directory)
            if is_lerobot:
                sample = lerobot_sample.take(directory, split, episodes)
            else:
                copy = epath.Path(folder) / 'sample'
                sample = episode_sample.take(directory, copy, split, episodes)
            name = dataset_name(directory)
            card, guesses = _card(sample, name, images, instruction, action, frequency)
            if is_lerobot:
                unreadable = lerobot_sample.try_card(directory, card, split)
                sample.unreadable += unreadable if not sample.unreadable else []
            else:
                rlds.open_source(sample.directory, card, split=split)[0]
        except (DataSetError, CardError) as error:
            raise DataSetError(f'{directory}: {error}') from error
    about = sample.episodes, sample.declared, tuple(sample.unreadable)
    return Draft(card, tuple(guesses), *about)


def dataset_name(directory: epath.PathLike) -> str:
    """A data set's name: its own, or of LeRobot, which has none, its folder's."""
    if lerobot_directory.is_lerobot(directory):
        return re.sub(r'[^\w.-]', '_', paths.of(directory).name)
    return tfds_directory.dataset_name(tfds_directory.version_folder(directory))


def _card(
    sample: Sample,
    name: str,
    images: Sequence[str],
    instruction: str,
    action: Sequence[str],
    frequency: float,
) -> tuple[RobotCard, list[Guess]]:
    cameras, about_images = guessed_features.images(sample, images)
    words, about_words = guessed_features.instruction(sample, instruction)
    parts, motion, about_action = guessed_action.dimensions(sample, action)
    gripper = None
    two = [x.name for x in parts if len(np.unique(guessed_action.joined(sample, x))) == 2]
    check = f'{", ".join(two)} has two values: perhaps a gripper, which is then called gripper'
    about_gripper = [
        Guess('gripper', 'none', 'no number of the action is named so', check if two else '')
    ]
    for part in parts:
        if part.kind == 'gripper':
            gripper, about_gripper = guessed_gripper.guess(
                guessed_action.called(sample, part), guessed_action.values(sample, part)
            )
    flag, rule, about_end = guessed_features.terminate(sample)
    success, about_success = guessed_features.success(sample)
    state, about_state = guessed_features.state(sample)
    rate, about_rate = guessed_features.frequency(sample, frequency)
    space, about_ranges = _space(sample, parts, motion, rule)
    drops, about_first = _first_step(sample, parts)
    card = RobotCard(
        name=name,
        images=cameras,
        instruction=words,
        action=guessed_action.parts_of(parts),
        terminate=flag,
        terminate_rule=rule,
        action_space=space,
        frequency=rate,
        frame='unknown',
        gripper=gripper,
        motion=motion,
        success=success,
        drop_zero_first=drops,
        state=state,
    )
    check = 'what x, y and z are relative to: words for people'
    if all(part.kind in ('joint', 'gripper') for part in parts):
        check = ''
    return card, [
        about_images,
        about_words,
        about_action,
        *about_gripper,
        about_end,
        *about_ranges,
        about_success,
        about_state,
        about_first,
        about_rate,
        Guess('frame', 'unknown', 'the data do not say', check),
    ]


def _space(
    sample: Sample, parts: Sequence[guessed_action.Dimension], motion: str, rule: str
) -> tuple[ActionSpace, list[Guess]]:
    """The card's `action_space`: symmetric about zero where the numbers are changes."""
    ranges: list[tuple[float, float]] = []
    units = []
    for part in parts:
        values = guessed_action.joined(sample, part)
        if part.kind == 'gripper':  # inside, whatever the robot's own numbers are
            ranges.append((-1.0, 1.0))
            units.append(('1', ''))
        else:
            ranges.append(guessed_action.range_of(values, motion == 'delta'))
            units.append(guessed_action.unit(sample, part))
    guesses = []
    for i, part in enumerate(parts):
        if part.kind == 'gripper':
            continue
        values = guessed_action.joined(sample, part)
        if np.ptp(values) == 0 and (motion == 'absolute' or not values.any()):  # it never moves
            rest = float(values[0])
            alike = [ranges[j] for j, other in enumerate(parts) if other.kind == part.kind]
            low, high = max(alike, key=lambda ends: ends[1] - ends[0])
            if low == high or not low <= rest <= high:
                half = (high - low) / 2 or 0.1
                low, high = rest - half, rest + half
            ranges[i] = low, high
        guess = guessed_action.describe_range(values, *ranges[i], part.name, units[i][0])
        check = '; '.join(filter(None, (guess.check, units[i][1])))
        guesses.append(guess._replace(check=check))
    lows, highs = zip(*ranges, strict=True)
    names = tuple(part.name for part in parts)
    space = ActionSpace(
        lows, highs, names, tuple(unit for unit, _ in units), terminate=rule != 'none'
    )
    return space, guesses


def _first_step(sample: Sample, parts: Sequence[guessed_action.Dimension]) -> tuple[bool, Guess]:
    """The card's `drop_zero_first`, and what else moves nothing."""
    moving = [guessed_action.values(sample, part) for part in parts if part.kind != 'gripper']
    still = [
        np.logical_not(np.any(np.stack(rows, axis=1), axis=1)) for rows in zip(*moving, strict=True)
    ]
    first, last = sum(int(episode[0]) for episode in still), sum(int(x[-1]) for x in still)
    share = float(np.concatenate(still).mean()) if still else 0.0
    drops = (
        bool(still)
        and first >= _NULL_FIRST * len(still)
        and share <= _STILL + first / sum(sample.lengths)
    )
    why = (
        f'the first step moves nothing in {first} of {len(still)} episodes, the last in {last}, any in '
        f'{share:.0%}'
    )
    check = 'that nobody commanded these first steps' if drops else ''
    return drops, Guess('drop_zero_first', str(drops), why, check)


def as_text(drafted: Draft) -> str:
    """The report: a line for each field, and one for what must be checked."""
    width = max(len(guess.field) for guess in drafted.guesses) + 2
    lines = [
        f'card {drafted.card.name!r}, drafted from {drafted.sampled:,} of {drafted.declared:,} episodes '
        'spread over the set',
        '',
    ]
    for guess in drafted.guesses:
        lines.append(f'  {guess.field:{width}}{guess.value}: {guess.why}')
        if guess.check:
            lines.append(f'  {"":{width}}CHECK {guess.check}')
    if drafted.unreadable:
        lines += ['', f'  {len(drafted.unreadable)} unreadable, the first: {drafted.unreadable[0]}']
    return '\n'.join(lines)


def as_json(card: RobotCard) -> str:
    """The card's file: JSON with a field a line, and lists of numbers or texts in one."""
    text = json.dumps(dataclasses.asdict(card), indent=2, ensure_ascii=False)
    # Line breaks are between values alone: within a text they are escaped.
    lists = re.compile(r'\[\n\s*([^\[\]{}]*?)\n\s*\]')
    joined = lists.sub(lambda match: '[' + re.sub(r'\n\s*', ' ', match[1]) + ']', text)
    return f'{joined}\n'


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('dataset', None, 'A TFDS data set in RLDS form, or a LeRobot data set.')
    flags.DEFINE_string(
        'output', None, "The card's file; by default NAME.json of the data set's name."
    )
    flags.DEFINE_boolean('overwrite', False, 'Whether a file that is there is replaced.')
    flags.DEFINE_string('split', 'train', 'Which split.')
    flags.DEFINE_list('images', [], "Cameras in place of a guess: 'observation/image,...'.")
    flags.DEFINE_string(
        'instruction', '', "The instruction in place of a guess; '/PATH' is the episode's."
    )
    flags.DEFINE_list('action', [], 'Features of the action in place of a guess, in its order.')
    flags.DEFINE_float('frequency', 0.0, 'Control rate, Hz, where it is known.', lower_bound=0)
    flags.DEFINE_integer(
        'episodes', episode_sample.EPISODES, 'How many are looked at, at most.', lower_bound=1
    )
    flags.mark_flag_as_required('dataset')


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.ERROR)  # the report says what is logged of ranges
    output = paths.of(FLAGS.output or f'{dataset_name(FLAGS.dataset)}.json')
    if not math.isfinite(FLAGS.frequency):
        raise app.UsageError(f'--frequency={FLAGS.frequency}: a finite number of Hz is needed')
    if output.exists() and not FLAGS.overwrite:
        raise FileExistsError(
            f'{output} is there already; --overwrite replaces it, --output names another'
        )
    drafted = draft(
        FLAGS.dataset,
        split=FLAGS.split,
        images=FLAGS.images,
        instruction=FLAGS.instruction,
        action=FLAGS.action,
        frequency=FLAGS.frequency,
        episodes=FLAGS.episodes,
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    paths.write(output, as_json(drafted.card).encode())
    print(as_text(drafted))
    checks = sum(bool(guess.check) for guess in drafted.guesses)
    print(f'\n{output}: correct it where a CHECK ({checks} of them) is wrong, then look:')
    print(
        f'  python -m rt2_jax.data.inspect --dataset={FLAGS.dataset} --split={FLAGS.split} '
        f'--card={output} --output=runs/inspected'
    )


if __name__ == '__main__':
    define_flags()
    command.run('draft_card', main)
