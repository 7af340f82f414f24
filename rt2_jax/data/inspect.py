"""Looks at a robot data set before anything is trained on it.

    python -m rt2_jax.data.inspect --dataset=DIR --output=runs/inspected

prints counts, lengths, statistics, decoded examples and warnings, and writes them as report.json,
with the histograms of every action dimension (actions.png), of the lengths (lengths.png) and frames
with their instruction (frames.png). It indexes the data first, which training then finds done.
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
from rt2_jax.data.errors import CardError, DataSetError
from rt2_jax.data.looking import charts, survey
from rt2_jax.data.readers import tfds_directory, tfrecord
from rt2_jax.data.robot import rlds, step_pictures
from rt2_jax.data.robot.step_source import StepSource
from rt2_jax.data.robot_card import RobotCard
from rt2_jax.text.actions import ActionTokenizer
from rt2_jax.text.tokenizer import Tokenizer

FLAGS = flags.FLAGS
EPISODES, FRAMES, EXAMPLES = 6, 5, 4  # shown; frames are an episode's


def card_of(directory: epath.PathLike, name: str | None) -> RobotCard:
    """The card of this name or file, by default the one that is named after the data set.

    Raises:
      DataSetError: there is no such card.
    """
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
      directory: a TFDS data set in RLDS form.
      output: the folder, made if need be.
      card: the embodiment card's name or JSON file; the data set's own by default.
      split: which split.
      location: the index's folder; inside the data set by default.
      on_corrupt: 'raise' or 'skip', for unreadable records.
    """
    output = paths.of(output)
    output.mkdir(parents=True, exist_ok=True)
    directory = tfds_directory.version_folder(directory)
    index = rlds.open_index(
        directory, card_of(directory, card), split=split, location=location, on_corrupt=on_corrupt
    )
    index.verify()
    cameras = range(len(index.card.images))
    camera = min(cameras, key=index.without_picture)
    settings = RobotSet(str(directory), index.card, camera=camera, on_corrupt=on_corrupt)
    source = StepSource(index, settings)
    report = {'dataset': str(directory), 'split': split, **survey.survey(source.index)}
    shown = _shown_episodes(source)
    unreadable: dict[str, str] = {}
    frames = _frames(source, [step for steps in shown for step in steps], unreadable)
    report['warnings'] += _picture_warnings(source, frames, unreadable)
    report['examples'] = [decoded(source, steps[0]) for steps in shown[:EXAMPLES]]
    content = json.dumps(report, indent=1, ensure_ascii=False)
    paths.write(output / 'report.json', content.encode())
    charts.save(output / 'actions.png', _action_chart(report))
    charts.save(output / 'lengths.png', _length_chart(source, report))
    charts.save(output / 'frames.png', _frame_sheet(source, report, shown, frames))
    return report


def decoded(source: StepSource, i: int) -> dict[str, Any]:
    """One example as the model meets it, and what the robot would be sent for it."""
    codec = ActionTokenizer(source.action_space, Tokenizer.load_default())
    integers = codec.to_integers(source.table.action(i))
    command = source.index.card.to_command(codec.from_integers(integers))
    raw = source.table.raw(i)
    return {
        'episode': raw['episode'],
        'step': raw['step'],
        'instruction': raw['instruction'],
        'action': [round(float(x), 5) for x in raw['action']],
        'tokens': ' '.join(map(str, integers.tolist())),
        'command': {path: np.round(value, 5).tolist() for path, value in command.items()},
    }


def as_text(report: Mapping[str, Any]) -> str:
    """The report as lines to print."""
    says, counts, lengths = report['card_says'], report['counts'], report['lengths']
    lines = [
        f'{report["dataset"]}, split {report["split"]}, card {report["card"]}',
        f'  {says["motion"]} actions, {says["frame"]}; {says["frequency_hz"]:g} Hz',
        f'  gripper {says["gripper"]}; terminate by {says["terminate"]}',
        f'  cameras {", ".join(says["cameras"])}',
        '',
        *(f'  {name.replace("_", " "):30}{_number(value)}' for name, value in counts.items()),
        f'  {"steps an episode":30}{lengths["min"]} to {lengths["max"]}, mean '
        f'{lengths["mean"]:.1f}, median {lengths["median"]:g}',
        f'  {"steps that move nothing":30}{report["still_steps"]:,}',
        f'  {"steps that terminate":30}{report["terminate"]["steps"]:,}',
        '',
        f'  {report["instructions"]["distinct"]:,} instructions, the commonest:',
        *(f'    {n:8,}  {words}' for words, n in report['instructions']['commonest'].items()),
        '',
        *_action_lines(report),
        '',
        '  decoded examples:',
    ]
    for example in report['examples']:
        lines += [
            f'    episode {example["episode"]}, step {example["step"]}: {example["instruction"]}',
            f'      action  {example["action"]}',
            f'      tokens  {example["tokens"]}',
            f'      command {example["command"]}',
        ]
    return '\n'.join([*lines, '', *(f'  WARNING: {words}' for words in report['warnings'])])


def _action_lines(report: Mapping[str, Any]) -> list[str]:
    names = ('min', 'q01', 'mean', 'q99', 'max', 'std')
    card, data = report['bounds']['card'], report['bounds']['q01-q99']
    lines = [
        f'  {"dimension":12}{"".join(f"{name:>11}" for name in names)}   bins of 98 %: card, q01-q99'
        '   clipped: card, q01-q99'
    ]
    for name, values in report['statistics'].items():
        label = name if card[name]['unit'] == '1' else f'{name} [{card[name]["unit"]}]'
        lines.append(
            f'  {label:12}{"".join(f"{values[key]:11.4g}" for key in names)}   '
            f'{card[name]["bins_of_98_percent"]:>12}/{card[name]["bins"]}, '
            f'{data[name]["bins_of_98_percent"]}/{data[name]["bins"]}'
            f'   {card[name]["clipped"]:.2%}, {data[name]["clipped"]:.2%}'
        )
    return lines


def _number(value: float) -> str:
    return f'{value:,}' if isinstance(value, int) else f'{value:,.2f}'


def _shown_episodes(source: StepSource) -> list[list[int]]:
    """Steps of a few episodes, both evenly spread."""
    count = len(source.table.episodes)
    places = np.unique(np.linspace(0, count - 1, min(EPISODES, count)).round().astype(int))
    return [
        [steps[j] for j in np.unique(np.linspace(0, len(steps) - 1, FRAMES).round().astype(int))]
        for steps in (source.table.episode_steps(int(place)) for place in places)
    ]


def _frames(
    source: StepSource, steps: Sequence[int], unreadable: dict[str, str]
) -> dict[int, list[np.ndarray]]:
    """The picture of every camera at the given steps; black where there is none that can be read.

    Args:
      source: of the steps.
      steps: numbers of steps.
      unreadable: gets the first reason for each camera with unreadable pictures, by its path.
    """
    index, frames = source.index, {step: [] for step in steps}
    for camera, path in enumerate(index.card.images):
        pictures = step_pictures.Pictures(index, camera)
        for step in steps:
            row, episode = source.table.row(step), source.table.episode_index(step)
            picture = np.zeros([64, 64, 3], np.uint8)
            if index.arrays['image_length'][row, camera]:
                (place,) = pictures.places(np.array([[row]]), np.array([episode]))
                try:
                    picture = pictures.frames(place)[-1]
                except tfrecord.CorruptRecord as error:
                    number = row - int(index.arrays['episode_first'][episode])
                    unreadable.setdefault(path, f'step {number} of episode {episode}, {error}')
            frames[step].append(picture)
    return frames


def _picture_warnings(
    source: StepSource, frames: Mapping[int, list[np.ndarray]], unreadable: Mapping[str, str]
) -> list[str]:
    warnings = [f'{path} has unreadable pictures: {reason}' for path, reason in unreadable.items()]
    for camera, path in enumerate(source.index.card.images):
        if path in unreadable or source.index.without_picture(camera):
            continue
        pictures = [pictures[camera] for pictures in frames.values()]
        plain = sum(np.ptp(picture.reshape(-1, 3), axis=0).max() < 8 for picture in pictures)
        if plain:
            warnings.append(
                f'{path} is of one colour in {plain} of {len(pictures)} frames looked at'
            )
    return warnings


def _action_chart(report: Mapping[str, Any]) -> np.ndarray:
    rows = []
    for name, values in report['bounds']['card'].items():
        row = []
        for bounds in ('card', 'q01-q99'):
            bins = report['bounds'][bounds][name]
            unit = '' if bins['unit'] == '1' else f' {bins["unit"]}'
            title = (
                f'{name}, {bounds}: 98 % in {bins["bins_of_98_percent"]} of {bins["bins"]} bins, '
                f'{bins["clipped"]:.1%} clipped'
            )
            ends = (f'{bins["low"]:.3g}{unit}', f'{bins["high"]:.3g}{unit}')
            row.append(charts.Bars(title, bins['counts'], *ends))
        rows.append(row)
    title = (
        f'{report["card"]}: {report["counts"]["steps"]:,} actions by bin (square root of counts)'
    )
    return charts.histograms(title, rows)


def _length_chart(source: StepSource, report: Mapping[str, Any]) -> np.ndarray:
    lengths = np.diff(source.index.arrays['episode_first'])
    top = int(lengths.max())
    counts, edges = np.histogram(lengths, bins=min(top + 1, 70), range=(0, top + 1))
    title = f'{report["card"]}: {report["counts"]["episodes"]:,} episodes by length'
    words = f'mean {report["lengths"]["mean"]:.1f}, median {report["lengths"]["median"]:g}'
    bars = charts.Bars(words, counts.tolist(), '0 steps', f'{edges[-1]:g} steps')
    return charts.histograms(title, [[bars]], height=140)


def _frame_sheet(source, report, shown, frames) -> np.ndarray:
    strips = []
    for steps in shown:
        examples = [decoded(source, step) for step in steps]
        words = f'episode {examples[0]["episode"]}: {examples[0]["instruction"]}'
        # The numbers of an action are hard to tell apart with one narrow blank between them.
        notes = [f'{e["step"]}:  {e["tokens"].replace(" ", "  ")}' for e in examples]
        strips.append(charts.Strip(words, [frames[step][source.settings.camera] for step in steps], notes))
    if len(cameras := source.index.card.images) > 1:
        steps = [steps[len(steps) // 2] for steps in shown]
        strips.append(
            charts.Strip(
                f'all cameras, one step of episode {source.table.episode_index(steps[0])}',
                frames[steps[0]],
                [path.rpartition('/')[2] for path in cameras],
            )
        )
    return charts.contact_sheet(f'{report["card"]}: step and tokens under each frame', strips)


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('dataset', None, 'A TFDS data set in RLDS form: its version folder.')
    flags.DEFINE_string('output', None, 'The folder for the report.')
    flags.DEFINE_string(
        'card', None, "The embodiment card's name or JSON file; the set's own by default."
    )
    flags.DEFINE_string('split', 'train', 'Which split.')
    flags.DEFINE_string('location', None, "The index's folder; inside the data set by default.")
    flags.DEFINE_string('on_corrupt', 'skip', "'raise' or 'skip', for unreadable records.")
    flags.mark_flags_as_required(['dataset', 'output'])


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.ERROR)  # what is logged of clipping and skipping is in the report
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
