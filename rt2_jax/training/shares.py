"""The share of each source in a run's batches, against that of its mixture."""

from absl import logging
import numpy as np

from rt2_jax.data import pipeline


def realised(
    batches: pipeline.BatchIterator, begin: int, end: int, examples: np.ndarray
) -> dict[str, float]:
    """Shares of each source in the steps begin + 1..end, and its epochs by then.

    A difference of more than one example a step from the schedule is logged as an error.

    Args:
        batches: of the run.
        begin: the step before them.
        end: the last of them.
        examples: [sources], rows of each source in these steps.

    Returns:
        'mixture/NAME/share' (of the rows), '.../wanted' (by the schedule), '.../epochs' (since the
        run began).
    """
    examples = np.asarray(examples, np.float64)
    wanted, before = batches.schedule.wanted(begin, end), batches.schedule.before(end)
    if (np.abs(examples - wanted) > end - begin + 1e-6).any():
        counts = zip(batches.sources, examples, wanted, strict=True)
        logging.error(
            'steps %d to %d do not keep to the mixture: %s',
            begin + 1,
            end,
            ', '.join(f'{name} {n:.0f} examples for {w:.1f}' for name, n, w in counts),
        )
    values = {}
    for number, (name, source) in enumerate(batches.datasets.items()):
        values[f'mixture/{name}/share'] = float(examples[number] / examples.sum())
        values[f'mixture/{name}/wanted'] = float(wanted[number] / wanted.sum())
        values[f'mixture/{name}/epochs'] = float(before[number] / len(source))
    return values
