"""Reports on a robot data set before training.

    python -m rt2_jax.data.inspect --dataset=DIR --output=runs/inspected

prints counts, lengths, statistics, decoded examples, what the actions lose as tokens (replay) and
warnings, and writes them as report.json, with histograms of the action dimensions (actions.png) and of
the episodes' lengths (lengths.png), and a strip of frames for each instruction with their tokens
(frames.png). It indexes the data first; training then uses the same index.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
from typing import Any

from absl import app, flags, logging
from etils import epath
import numpy as np

from rt2_jax import command, paths
from rt2_jax.data import cards
from rt2_jax.data.data_config import RobotSet
from rt2_jax.data.data_errors import CardError, DataSetError
from rt2_jax.data.looking import charts, contact_sheet, replay, robot_report
from rt2_jax.data.readers import lerobot_directory, tfds_directory, tfrecord
from rt2_jax.data.robot import rlds, step_pictures
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

FLAGS = flags.FLAGS
EPISODES, FRAMES, EXAMPLES = 12, 5, 4  # shown at most; frames are an episode's
_GRIPPER_BINS = 6  # printed
SHEET_WIDTH = 232  # of a frame on the sheet, pixels


def card_of(directory: epath.PathLike, name: str | None) -> RobotCard:
    """The card of this name or file, by default the one that is named after the RLDS data set.

    Raises:
        DataSetError: there is no such card.
    """
    if not name and lerobot_directory.is_lerobot(directory):
        raise DataSetError(
            f'{directory} is a LeRobot data set, for which --card=FILE.json is needed; '
            'python -m rt2_jax.data.draft_card makes one'
        )
    try:
        return cards.find(name or tfds_directory.dataset_name(directory))
    except CardError as error:
        raise DataSetError(
            f'{error} (for {directory}; --card takes a name or a JSON file)'
        ) from error


def inspect(
    directory: epath.PathLike,
    output: epath.PathLike,
    *,
    card: str | None = None,
    split: str = 'train',
    location: epath.PathLike | None = None,
    on_corrupt: str = 'skip',
) -> dict[str, Any]:
    """Writes the report of a data set into a folder, and returns it.

    Args:
        directory: a TFDS data set in RLDS form, or a LeRobot data set.
        output: the folder, made if need be.
        card: the robot card's name or JSON file; the data set's own by default.
        split: which split.
        location: the index's folder; inside the data set by default.
        on_corrupt: 'raise' or 'skip', for unreadable records.

    Raises:
        DataSetError: the data set or its card cannot be read.
        MissingPackage: matplotlib is not installed.
    """
    charts.require()
    output = paths.of(output)
    output.mkdir(parents=True, exist_ok=True)
    directory = tfds_directory.version_folder(directory)
    index = rlds.open_index(
        directory, card_of(directory, card), split=split, location=location, on_corrupt=on_corrupt
    )
    index.verify()
    cameras = range(len(index.card.images))
    camera = min(cameras, key=index.without_picture)
    state = 'q01-q99' if index.card.state else ''
    settings = RobotSet(
        str(directory), index.card, camera=camera, state=state, on_corrupt=on_corrupt
    )
    source = StepSource(index, settings)
    report = {'dataset': str(directory), 'split': split, **robot_report.report_of(source.index)}
    episodes = shown_steps(source, EPISODES, FRAMES)
    pictures, warnings = _pictures(source, [step for steps in episodes for step in steps])
    report['warnings'] += warnings
    report['examples'] = [decoded(source, steps[0]) for steps in episodes[:EXAMPLES]]
    content = json.dumps(report, indent=1, ensure_ascii=False)
    paths.write(output / 'report.json', content.encode())
    charts.save(output / 'actions.png', _action_chart(report))
    charts.save(output / 'lengths.png', _length_chart(source, report))
    rows = [
        episode_row(source, steps, [pictures[step][camera] for step in steps]) for steps in episodes
    ]
    if len(cameras) > 1:
        rows.append(_camera_row(source, episodes[0][len(episodes[0]) // 2], pictures))
    instructions = report['instructions']['distinct']
    title = (
        f'{report["card"]}: {min(instructions, EPISODES)} of {instructions} instructions; step and '
        'tokens under each frame'
    )
    contact_sheet.save(output / 'frames.png', contact_sheet.draw(rows, title, SHEET_WIDTH))
    return report


def decoded(source: StepSource, i: int) -> dict[str, Any]:
    """Step `i` as the model sees it, and the command that the robot would get for its tokens."""
    codec = ActionTokenizer(source.action_space, Tokenizer.load_default())
    integers = codec.to_integers(source.table.action(i))
    robot_command = source.index.card.to_command(codec.from_integers(integers))
    raw, state = source.table.raw(i), source.state(i)
    return {
        'episode': raw['episode'],
        'step': raw['step'],
        'instruction': raw['instruction'],
        **({} if state is None else {'state': np.round(state, 5).tolist()}),
        'action': [round(float(x), 5) for x in raw['action']],
        'tokens': ' '.join(map(str, integers.tolist())),
        'command': {path: np.round(value, 5).tolist() for path, value in robot_command.items()},
    }


def shown_steps(source: StepSource, episodes: int, frames: int) -> list[list[int]]:
    """Evenly spread steps of one episode for each instruction, the commonest instructions first.

    Where there are fewer instructions than half of `episodes`, others are added up to that.
    """
    table = source.table
    ranges = [table.episode_steps(position) for position in range(len(table.episodes))]
    which = table.texts()[0][[steps.start for steps in ranges]]
    instructions, counts = np.unique(which, return_counts=True)
    commonest = instructions[np.argsort(-counts, kind='stable')][:episodes]
    # The middle one of each: the first episodes of a set are often trials.
    chosen = [
        members[len(members) // 2] for i in commonest for members in [np.flatnonzero(which == i)]
    ]
    others = [i for i in _evenly(len(ranges), episodes) if i not in chosen]
    chosen += others[: max(0, episodes // 2 - len(chosen))]
    return [[ranges[i][step] for step in _evenly(len(ranges[i]), frames)] for i in chosen]


def episode_row(
    source: StepSource, steps: Sequence[int], pictures: Sequence[np.ndarray]
) -> contact_sheet.Row:
    """Frames of one episode for a contact sheet, the step and its tokens under each."""
    examples = [decoded(source, step) for step in steps]
    outcome = {1: ', success', 0: ', failure', -1: ''}[source.table.success(steps[0])]
    caption = (
        f'episode {examples[0]["episode"]}: {examples[0]["instruction"]} '
        f'({len(source.table.episode_around(steps[0]))} steps{outcome})'
    )
    cells = [
        contact_sheet.Cell(picture, [f'step {example["step"]}', example['tokens']])
        for picture, example in zip(pictures, examples, strict=True)
    ]
    return contact_sheet.Row(cells, caption)


def as_text(report: Mapping[str, Any]) -> str:
    """The report as lines to print."""
    says, counts, lengths = report['card_says'], report['counts'], report['lengths']
    lines = [
        f'{report["dataset"]}, split {report["split"]}, card {report["card"]}',
        f'  {says["motion"]} actions, {says["frame"]}; {says["frequency_hz"]:g} Hz',
        f'  gripper {says["gripper"]}; terminate by {says["terminate"]}',
        f'  cameras {", ".join(says["cameras"])}',
        '',
        *(
            f'  {name.replace("_", " "):30}'
            + (f'{value:,}' if isinstance(value, int) else f'{value:,.2f}')
            for name, value in counts.items()
        ),
        f'  {"steps an episode":30}{lengths["min"]} to {lengths["max"]}, mean '
        f'{lengths["mean"]:.1f}, median {lengths["median"]:g}',
        f'  {"steps that move nothing":30}{report["still_steps"]:,}',
        f'  {"steps that terminate":30}{report["terminate"]["steps"]:,}, of which '
        f'{report["terminate"]["still"]:,} move nothing',
        '',
        f'  {report["instructions"]["distinct"]:,} instructions, the commonest:',
        *(f'    {n:8,}  {words}' for words, n in report['instructions']['commonest'].items()),
        '',
        *_action_lines(report),
        *_state_lines(report['state']),
        *_gripper_line(report['gripper_bins']),
        '',
        *replay.as_lines(report['replay']['card']),
        '',
        '  decoded examples:',
    ]
    for example in report['examples']:
        lines += [
            f'    episode {example["episode"]}, step {example["step"]}: {example["instruction"]}',
            *([f'      state   {example["state"]}'] if 'state' in example else []),
            f'      action  {example["action"]}',
            f'      tokens  {example["tokens"]}',
            f'      command {example["command"]}',
        ]
    return '\n'.join([*lines, '', *(f'  WARNING: {words}' for words in report['warnings'])])


def _action_lines(report: Mapping[str, Any]) -> list[str]:
    names = ('min', 'q01', 'mean', 'q99', 'max', 'std')
    lines = [
        f'  {"dimension":12}{"".join(f"{name:>11}" for name in names)}   bins of 98 %: card, q01-q99'
        '   clipped: card, q01-q99'
    ]
    for name, values in report['statistics'].items():
        card, data = report['bounds']['card'][name], report['bounds']['q01-q99'][name]
        label = name if card['unit'] == '1' else f'{name} [{card["unit"]}]'
        lines.append(
            f'  {label:12}{"".join(f"{values[key]:11.4g}" for key in names)}   '
            f'{card["bins_of_98_percent"]:>12}/{card["bins"]}, '
            f'{data["bins_of_98_percent"]}/{data["bins"]}'
            f'   {card["clipped"]:.2%}, {data["clipped"]:.2%}'
        )
    return lines


def _state_lines(state: Mapping[str, Mapping[str, Any]]) -> list[str]:
    if not state:
        return []
    names = ('min', 'q01', 'mean', 'q99', 'max', 'std')
    lines = [f'  {"state":12}{"".join(f"{name:>11}" for name in names)}   clipped: card, q01-q99']
    for name, values in state.items():
        card = f'{values["card"]["clipped"]:.2%}' if 'card' in values else '-'
        lines.append(
            f'  {name:12}{"".join(f"{values[key]:11.4g}" for key in names)}   {card:>13}, '
            f'{values["q01-q99"]["clipped"]:.2%}'
        )
    return lines


def _gripper_line(bins: Sequence[Mapping[str, float]]) -> list[str]:
    if not bins:
        return []
    shown = ', '.join(
        f'{entry["bin"]} ({entry["share"]:.1%}, sends {entry["command"]:g})'
        for entry in bins[:_GRIPPER_BINS]
    )
    rest = sum(entry['share'] for entry in bins[_GRIPPER_BINS:])
    more = f' and {len(bins) - _GRIPPER_BINS} more ({rest:.1%})' if rest else ''
    return [f'  gripper in {len(bins)} bins: {shown}{more}']


def _evenly(count: int, most: int) -> list[int]:
    """At most `most` numbers from 0 to count - 1, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(most, count)).round().astype(int)).tolist()


def _pictures(
    source: StepSource, steps: Sequence[int]
) -> tuple[dict[int, list[np.ndarray]], list[str]]:
    """Every camera's picture by step, black where none can be read; and what is wrong with them."""
    index, warnings = source.index, []
    pictures: dict[int, list[np.ndarray]] = {step: [] for step in steps}
    for camera, path in enumerate(index.card.images):
        reader, reason, plain = step_pictures.reader(index, camera), '', 0
        for step in steps:
            row, episode = source.table.row(step), source.table.episode_index(step)
            picture = np.zeros([64, 64, 3], np.uint8)
            if index.arrays['image_length'][row, camera]:
                (place,) = reader.places(np.array([[row]]), np.array([episode]))
                try:
                    picture = reader.frames(place)[-1]
                except tfrecord.CorruptRecord as error:
                    number = row - int(index.arrays['episode_first'][episode])
                    reason = reason or f'step {number} of episode {episode}, {error}'
            plain += np.ptp(picture.reshape(-1, 3), axis=0).max() < 8
            pictures[step].append(picture)
        if reason:
            warnings.append(f'{path} has unreadable pictures: {reason}')
        elif plain and not index.without_picture(camera):
            warnings.append(f'{path} is of one colour in {plain} of {len(steps)} frames looked at')
    return pictures, warnings


def _action_chart(report: Mapping[str, Any]) -> charts.Figure:
    def bars(name: str, bounds: str) -> charts.Bars:
        bins = report['bounds'][bounds][name]
        title = (
            f'{name}, {bounds}: 98 % in {bins["bins_of_98_percent"]} of {bins["bins"]} bins, '
            f'{bins["clipped"]:.1%} clipped'
        )
        unit = '' if bins['unit'] == '1' else bins['unit']
        return charts.Bars(title, bins['counts'], bins['low'], bins['high'], unit)

    title = (
        f'{report["card"]}: {report["counts"]["steps"]:,} actions by bin (square root of counts)'
    )
    names = report['bounds']['card']
    rows = [[bars(name, bounds) for bounds in report['bounds']] for name in names]
    return charts.histograms(title, rows, roots=True)


def _length_chart(source: StepSource, report: Mapping[str, Any]) -> charts.Figure:
    lengths = np.diff(source.index.arrays['episode_first'])
    top = int(lengths.max()) + 1
    counts, _ = np.histogram(lengths, bins=min(top, 70), range=(0, top))
    words = f'mean {report["lengths"]["mean"]:.1f}, median {report["lengths"]["median"]:g}'
    title = f'{report["card"]}: {report["counts"]["episodes"]:,} episodes by length'
    return charts.histograms(title, [[charts.Bars(words, counts.tolist(), 0, top, 'steps')]])


def _camera_row(
    source: StepSource, step: int, pictures: Mapping[int, Sequence[np.ndarray]]
) -> contact_sheet.Row:
    cells = [
        contact_sheet.Cell(picture, [path.rpartition('/')[2]])
        for picture, path in zip(pictures[step], source.index.card.images, strict=True)
    ]
    return contact_sheet.Row(
        cells, f'all cameras, one step of episode {source.table.episode_index(step)}'
    )


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string(
        'dataset', None, 'A TFDS data set in RLDS form (its version folder), or a LeRobot one.'
    )
    flags.DEFINE_string('output', None, 'The folder for the report.')
    flags.DEFINE_string(
        'card', None, "The robot card's name or JSON file; the set's own by default."
    )
    flags.DEFINE_string('split', 'train', 'Which split.')
    flags.DEFINE_string('location', None, "The index's folder; inside the data set by default.")
    flags.DEFINE_string('on_corrupt', 'skip', "'raise' or 'skip', for unreadable records.")
    flags.mark_flags_as_required(['dataset', 'output'])


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.ERROR)  # the report has what is logged of clipping and skipping
    report = inspect(
        FLAGS.dataset,
        FLAGS.output,
        card=FLAGS.card,
        split=FLAGS.split,
        location=FLAGS.location,
        on_corrupt=FLAGS.on_corrupt,
    )
    print(as_text(report))
    print(f'\n{FLAGS.output}: report.json, actions.png, lengths.png, frames.png')


if __name__ == '__main__':
    define_flags()
    command.run('inspect', main)
