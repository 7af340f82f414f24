"""Shows what a config would train on: its mixture of sources, and their frames.

    python -m rt2_jax.data.preview --config=configs/tabletop.py --frames=frames.png

Prints each source's examples, its share of a batch at five steps of the run, its epochs, and what is
held out. With --frames, draws a sheet with a row per example: as stored, augmented as in training,
and as a policy sees it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from absl import app, flags
import numpy as np

from rt2_jax import command, configuration, paths
from rt2_jax.data import augmentation, images, sources as sources_lib
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.looking import contact_sheet
from rt2_jax.data.mixture import Mixture, MixtureSchedule
from rt2_jax.data.robot.step_source import StepSource

FLAGS = flags.FLAGS

COLUMNS = 5  # steps of the run in the table
ROWS_PER_SOURCE, VIEWS = 2, 5  # on the sheet; views are augmented
SIDE = 192  # pixels


def table(
    names: Sequence[str], lengths: Sequence[int], schedule: MixtureSchedule, batches: int
) -> list[str]:
    """Lines to print: one per source, with its per cent of a batch at `COLUMNS` steps of the run."""
    steps = np.linspace(0, batches - 1, COLUMNS).round().astype(int)
    percent = np.array([schedule.wanted(step, step + 1) for step in steps])
    percent = 100 * percent / percent.sum(axis=1, keepdims=True)
    width = max(len('source'), *map(len, names))
    lines = [f'{"source":{width}} {"has":>12} {"draws":>12} {"epochs":>10}  % of a batch']
    lines.append(' ' * (width + 38) + ' '.join(f'{f"@{step}":>9}' for step in steps))
    rows = zip(names, lengths, schedule.before(batches), percent.T, strict=True)
    for name, length, drawn, row in rows:
        lines.append(
            f'{name:{width}} {length:12,} {drawn:12,} {drawn / length:10.3g} '
            + ' '.join(f'{share:9.2f}' for share in row)
        )
    return lines


def sheet(sources: Mapping[str, Any], augment: augmentation.Augmentation, seed: int) -> np.ndarray:
    """A sheet of frames uint8 [H, W, 3]: `ROWS_PER_SOURCE` rows per source, see the module."""
    labels = ['as it is', *[f'in training, {n + 1}' for n in range(VIEWS)], 'to a policy']
    rows = []
    for name, source in sources.items():
        for i in np.linspace(0, min(len(source), 1_000) - 1, ROWS_PER_SOURCE).astype(int).tolist():
            example = source[i]
            views = [images.resize(example.frames, SIDE)]
            views += [augment.training(example, SIDE, seed, number) for number in range(VIEWS)]
            views.append(augment.evaluation(example.frames, SIDE, augmentation.is_cropped(example)))
            cells = [
                contact_sheet.Cell(frames[-1], [label])
                for frames, label in zip(views, labels, strict=True)
            ]
            rows.append(contact_sheet.Row(cells, f'{name} {i}: {example.prompt}'))
    return contact_sheet.draw(rows, 'Frames as they are shown', SIDE)


def held_out(config: Any, sources: Mapping[str, Any]) -> list[str]:
    """Lines to print about what is never trained on.

    Raises:
        holdouts.Leakage: some of it is trained on.
    """
    lines = []
    for name, source in sources_lib.open_validation(config, sources).by_name().items():
        size = f'{len(source):,} examples'
        if isinstance(source, StepSource):
            size = f'{len(source.table.episodes):,} episodes, {len(source):,} steps'
        lines.append(f'{name}: {size} held out')
    return lines


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('frames', None, 'Where a sheet of frames goes (.png).')


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    config = FLAGS.config
    configuration.check(config)
    data = DataConfig.from_config(config.data)
    opened = sources_lib.open_sources(data)
    mixture = Mixture.of(opened, data.robot_share)
    schedule = MixtureSchedule(mixture, config.total_steps, config.batch_size)
    sources = opened.by_name()
    lines = table(list(sources), [*map(len, sources.values())], schedule, config.total_steps)
    if sources_lib.holds_out(config):
        lines += ['', *held_out(config, sources)]
    print('\n'.join(lines))
    if FLAGS.frames:
        contact_sheet.save(paths.of(FLAGS.frames), sheet(sources, data.augment, config.seed))
        print(f'\n{FLAGS.frames}: {ROWS_PER_SOURCE} rows for each of {", ".join(sources)}')


if __name__ == '__main__':
    define_flags()
    command.run('preview', main, flags_parser=configuration.parse_flags)
