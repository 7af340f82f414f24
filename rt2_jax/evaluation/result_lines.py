"""Results in words: a line for each suite, and a table of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def describe(suite: str, figures: Mapping[str, Any]) -> str:
    """The figures of a suite in a line for the terminal, or a line for each data set."""
    if 'success' in figures:
        low, high = figures['interval']
        line = (
            f'{suite}: {figures["success"]:.1%} of {figures["episodes"]} episodes succeeded '
            f'(95 % interval {low:.1%} to {high:.1%}), {figures["mean_steps"]:.1f} steps'
        )
        if 'decision_ms' in figures:
            line += f', decision {figures["decision_ms"]["p50"]:.1f} ms'
        if 'recognition' not in figures:
            groups = [
                f'{name} {_success(group)}' for name, group in figures.get('groups', {}).items()
            ]
            line = f'{line}; ended by the policy: {figures["terminated_by_policy"]:.0%}'
            return '; '.join([line, *groups])
        return (
            f'{line}; went to X first: {_share(figures["recognition"])}, then succeeded: '
            f'{_share(figures["execution"])}'
        )
    if 'swap' in figures:
        return f'{suite}: {_describe_swap(figures["swap"])}'
    if 'sets' in figures:
        return '\n'.join(
            f'{suite}: {name}: {actions["steps"]} steps, {_describe_actions(actions)}'
            for name, actions in figures['sets'].items()
        )
    web = figures['web']
    line = f'{suite}: {web["accuracy"]:.1%} of {web["questions"]} questions'
    return f'{line}; {_describe_actions(figures["actions"])}' if 'actions' in figures else line


def table(figures: Mapping[str, Mapping[str, Any]]) -> str:
    """Success, recognition and execution of the suites that were played, a row each; '' for none.

    A world that does not know its objects' places has a row of success alone.
    """
    rows = [('', 'success', 'went to X first', 'by chance', 'success given X')]
    for suite, values in figures.items():
        if 'success' in values:
            known = ('', '', '')
            if first := values.get('recognition'):
                known = _share(first), f'{first["by_chance"]:.0%}', _share(values['execution'])
            rows.append((suite, _success(values), *known))
    if len(rows) == 1:
        return ''
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return '\n'.join(
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _success(figures: Mapping[str, Any]) -> str:
    low, high = figures['interval']
    return f'{figures["success"]:.0%} ({low:.0%} to {high:.0%})'


def _share(share: Mapping[str, Any]) -> str:
    if share['share'] is None:
        return 'of none'
    low, high = share['interval']
    return f'{share["share"]:.0%} ({low:.0%} to {high:.0%})'


def _describe_swap(figures: Mapping[str, Any]) -> str:
    change = figures['change']
    if change['ratio'] is None:
        line = f'{change["swapped"]:.1f} bins, and draws for the same one by none'
    else:
        low, high = change['interval']
        line = (
            f'{change["ratio"]:.2f} times as much (95 % interval {low:.2f} to {high:.2f}) as draws '
            'for the same one differ'
        )
    line = f'{figures["frames"]} frames, another instruction changes the action by {line}'
    if not (points := figures['points']):
        return line
    return (
        f'{line}; it points to the tile of its own instruction: {_share(points["own"])}, of the '
        f'other when that is given: {_share(points["swapped"])}, by chance {points["by_chance"]:.0%}'
    )


def _describe_actions(figures: Mapping[str, Any]) -> str:
    errors = []
    for name, error in figures['error'].items():
        unit = '' if error['unit'] == '1' else f' {error["unit"]}'
        errors.append(f'{name} {error["mean"]:.4f}{unit}')
    return f'tokens {figures["token_accuracy"]:.1%}; error {", ".join(errors)}'
