"""A table as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

NOT_BUILT = 'not built'
_WORLDS = (
    'Ours are episodes on the simulated tabletop, with models a thousand times smaller or more; the '
    "paper's are of real robots in kitchens. The numbers are beside each other to compare the order of "
    'the rows and what is hard, not the height.'
)


def markdown(results: Mapping[str, Any], videos: Mapping[str, str]) -> str:
    """The whole table: success beside the paper's, recognition, and where the videos are.

    Args:
        results: of `table_results.gather`.
        videos: file names by row label.
    """
    parts = [f'# {results["title"]}', _success(results)]
    if difference := results.get('difference'):
        first, second = (row['label'] for row in results['rows'])
        parts += [
            f'{second.capitalize()} against {first}, points:',
            _differences(results, difference),
        ]
    if built := [row for row in results['rows'] if row['built']]:
        parts += ['How often the first approach went to X, percent:', _recognition(results, built)]
        timed = [row for row in built if row['actions_per_second'] is not None]
        paces = [f'{row["label"]} {row["actions_per_second"]:.0f}' for row in timed]
        if paces:
            parts.append(f'Actions a second, of several robots at a time: {", ".join(paces)}.')
    parts.append(_notes(results))
    if videos:
        parts.append('\n'.join(f'- {label}: [{name}]({name})' for label, name in videos.items()))
    return '\n\n'.join(parts) + '\n'


def _success(results: Mapping[str, Any]) -> str:
    rows = []
    for row in results['rows']:
        rows.append([f'**{row["label"]}**', *_cells(results, row, percent)])
        paper = [*row['paper']['cells'].values(), row['paper']['average']]
        if any(number is not None for number in paper):
            numbers = ['–' if number is None else f'{number:g}' for number in paper]
            rows.append([f"paper's {row['paper']['model']}", *numbers])
    return _grid(['success, percent', *_heads(results)], rows)


def _cells(results: Mapping[str, Any], row: Mapping[str, Any], show: Any) -> list[str]:
    if not row['built']:
        return [NOT_BUILT] * (len(results['columns']) + 1)
    figures = [*(row['cells'][name] for name in results['columns']), row['average']]
    return ['–' if figure is None else show(figure) for figure in figures]


def _recognition(results: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    show = lambda cell: percent({'success': cell['recognition']['share'], **_interval(cell)})
    return _grid(
        ['', *_heads(results)],
        [[f'**{row["label"]}**', *_cells(results, row, show)] for row in rows],
    )


def _interval(cell: Mapping[str, Any]) -> dict[str, Any]:
    return {'interval': cell['recognition']['interval']}


def _differences(results: Mapping[str, Any], difference: Mapping[str, Any]) -> str:
    names = [*results['columns'], results['average']]
    cells = [_points(difference[name]) if name in difference else '–' for name in names]
    return _grid(['', *_heads(results)], [['difference', *cells]])


def _points(figure: Mapping[str, Any]) -> str:
    low, high = (100 * end for end in figure['interval'])
    return f'{100 * figure["difference"]:+.0f} ({low:+.0f} to {high:+.0f})'


def percent(figure: Mapping[str, Any]) -> str:
    """A share with its interval: '71 (64 to 77)'."""
    low, high = (100 * end for end in figure['interval'])
    return f'{100 * figure["success"]:.0f} ({low:.0f} to {high:.0f})'


def _heads(results: Mapping[str, Any]) -> list[str]:
    return [name.replace('_', ' ') for name in [*results['columns'], results['average']]]


def _notes(results: Mapping[str, Any]) -> str:
    """How many episodes a number is of, how intervals are made, and where the paper's are from."""
    counts = sorted(
        {
            (cell['episodes'], len(cell['seeds']))
            for row in results['rows']
            if row['built']
            for cell in row['cells'].values()
        }
    )
    sizes = ' or '.join(
        f'{number} episodes ({seeds} training seed{"s" * (seeds > 1)})' for number, seeds in counts
    )
    notes = ['Intervals are 95 %, of all episodes; runs differ by more.']
    if sizes:
        notes.insert(0, f"A suite's number is of {sizes}.")
    if results['averaged']:
        notes.append(f'The average is over {", ".join(results["averaged"]).replace("_", " ")}.')
    if results['source']:
        notes.append(f"The paper's numbers: {results['source']}. {_WORLDS}")
    else:
        notes.append('The paper has no numbers for this.')
    if any(not row['built'] for row in results['rows']):
        notes.append(
            f"'{NOT_BUILT}': the model is not in this code base yet; nothing was measured."
        )
    return ' '.join(notes)


def _grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(line[place]) for line in [head, *rows]) for place in range(len(head))]
    lines = [head, ['-' * width for width in widths], *rows]
    return '\n'.join('| ' + ' | '.join(map(str.ljust, line, widths)) + ' |' for line in lines)
