"""What a config would train on, before anybody trains: its mixture, and its frames as they are shown.

    python -m rt2_jax.data.preview --config=configs/tabletop.py --frames=frames.png

Prints each source's examples, its share of a batch at five moments of the run, how often the run goes
through it, and what is held out. With --frames, draws a sheet: a row an example, first as it is, then as
training may show it, last as a policy sees it.
"""

from collections.abc import Mapping
from typing import Any

from absl import app, flags
import numpy as np

from rt2_jax import command, configuration, paths
from rt2_jax.data import augmentation, images, sources as sources_lib
from rt2_jax.data.data_config import DataConfig
from rt2_jax.data.looking import charts
from rt2_jax.data.mixture import Mixture, MixtureSchedule
from rt2_jax.data.robot.step_source import StepSource

FLAGS = flags.FLAGS

MOMENTS = 5
ROWS_A_SOURCE, TIMES = 2, 5
SIDE = 192  # pixels


def table(
    names: list[str], lengths: list[int], schedule: MixtureSchedule, batches: int
) -> list[str]:
    """Lines for people: a source each, with its share in per cent at `MOMENTS` moments of a run."""
    moments = np.linspace(0, batches - 1, MOMENTS).round().astype(int)
    shares = np.array([schedule.wanted(step, step + 1) for step in moments])
    shares = 100 * shares / shares.sum(axis=1, keepdims=True)
    width = max(len('source'), *map(len, names))
    heads = [f'@{step}' for step in moments]
    lines = [f'{"source":{width}} {"has":>12} {"draws":>12} {"epochs":>10}  % of a batch']
    lines.append(' ' * (width + 38) + ' '.join(f'{head:>9}' for head in heads))
    for i, (name, length, drawn) in enumerate(zip(names, lengths, schedule.before(batches))):
        lines.append(
            f'{name:{width}} {length:12,} {drawn:12,} {drawn / length:10.3g} '
            + ' '.join(f'{share:9.2f}' for share in shares[:, i])
        )
    return lines


def sheet(opened: Mapping[str, Any], augment: augmentation.Augmentation, seed: int) -> np.ndarray:
    """A sheet of frames uint8 [H, W, 3]: `ROWS_A_SOURCE` rows a source, see the module."""
    notes = ['as it is', *[f'in training, {number + 1}' for number in range(TIMES)], 'to a policy']
    strips = []
    for name, source in opened.items():
        for i in np.linspace(0, min(len(source), 1_000) - 1, ROWS_A_SOURCE).astype(int).tolist():
            example = source[i]
            shown = [images.resize(example.frames, SIDE)]
            shown += [augment.training(example, SIDE, seed, number) for number in range(TIMES)]
            cropped = augmentation.is_cropped(example)
            shown.append(augment.evaluation(example.frames, SIDE, cropped))
            pictures = [view[-1] for view in shown]
            strips.append(charts.Strip(f'{name} {i}: {example.prompt}', pictures, notes))
    return charts.contact_sheet('frames as they are shown', strips, width=SIDE)


def held_out(config: Any, opened: Mapping[str, Any]) -> list[str]:
    """Lines for people about what is never trained on.

    Raises:
      holdouts.Leakage: some of it is trained on.
    """
    lines = []
    for name, source in sources_lib.open_validation(config, opened).by_name().items():
        if isinstance(source, StepSource):
            lines.append(
                f'{name}: {len(source.table.episodes):,} episodes, {len(source):,} steps held out'
            )
        else:
            lines.append(f'{name}: {len(source):,} examples held out')
    return lines


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    configuration.define_flag()
    flags.DEFINE_string('frames', None, 'Where a sheet of frames goes (.png).')


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    config = FLAGS.config
    configuration.check(config)
    data = DataConfig.from_config(config.data)
    sources = sources_lib.open_sources(data)
    mixture = Mixture.of(sources, data.robot_share)
    schedule = MixtureSchedule(mixture, config.total_steps, config.batch_size)
    opened = sources.by_name()
    lines = table(list(opened), [*map(len, opened.values())], schedule, config.total_steps)
    if sources_lib.holds_out(config):
        lines += ['', *held_out(config, opened)]
    print('\n'.join(lines))
    if FLAGS.frames:
        charts.save(paths.of(FLAGS.frames), sheet(opened, data.augment, config.seed))
        print(f'\n{FLAGS.frames}: {ROWS_A_SOURCE} rows for each of {", ".join(opened)}')


if __name__ == '__main__':
    define_flags()
    command.run('preview', main, flags_parser=configuration.parse_flags)
