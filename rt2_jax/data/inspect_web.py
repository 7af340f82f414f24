"""Reports on a web set before training.

    python -m rt2_jax.data.inspect_web --dataset=DIR --kind=jsonl --output=OUT \
        --fields=caption=text,language=lang

It indexes the set if it has no index. It prints counts, languages, scores, lengths and examples, and
writes the report as OUT/report.json and the examples as OUT/sheet.png: as training sees them, drawn
evenly from the set, with the boxes of their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import time
from typing import Any

from absl import app, flags, logging
import numpy as np

from rt2_jax import command, paths
from rt2_jax.data.data_config import WEB_KINDS, WebSet
from rt2_jax.data.index.opened_index import open_index
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.looking import contact_sheet
from rt2_jax.data.web import open_web, web_tasks
from rt2_jax.data.web.web_cards import TEXTS
from rt2_jax.data.web.web_source import WebSource
from rt2_jax.text import places

FLAGS = flags.FLAGS
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)
_COLUMNS = 4  # of the sheet


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('dataset', None, 'Directory of the web set.')
    flags.DEFINE_enum('kind', None, WEB_KINDS, 'Its format.')
    flags.DEFINE_string(
        'card', '', "A card's name (rt2_jax.data.web.web_cards); its kind's if empty."
    )
    flags.DEFINE_list('fields', [], "FIELD=PATH, in the place of the card's.")
    flags.DEFINE_string('split', 'train', "TFDS's split.")
    flags.DEFINE_string('files', '', 'Pattern of the shards or JSONL files within the directory.')
    flags.DEFINE_string('pictures', '', 'Folder that the pictures of a JSONL are relative to.')
    flags.DEFINE_string('location', None, 'Folder of the index; inside the set by default.')
    flags.DEFINE_enum('on_corrupt', 'raise', ['raise', 'skip'], 'For unreadable records.')
    flags.DEFINE_string('output', None, 'Directory for the report and the sheet.')
    flags.DEFINE_integer('examples', 24, 'Examples on the sheet.', lower_bound=1)
    flags.DEFINE_integer('seed', 0, 'Of what examples leave open.')
    flags.mark_flags_as_required(['dataset', 'kind', 'output'])


def report_of(table: WebTable) -> dict[str, Any]:
    """A JSON-serialisable report, from the index alone."""
    arrays, score = table.arrays, table.arrays['score']
    counts = np.bincount(arrays['language'], minlength=len(table.languages)).tolist()
    languages = sorted(zip(counts, table.languages, strict=True), reverse=True)
    lengths = {field: np.diff(arrays[f'{field}_end']) for field in TEXTS if field in arrays}
    known = score[~np.isnan(score)]
    report = {
        'directory': table.directory,
        'kind': table.about['kind'],
        'card': table.about['card'],
        'records': len(table),
        'files': len(table.files),
        'unreadable': table.about['skipped_count'],
        'index_bytes': sum(file.stat().length for file in table.local.glob('*.npy')),
        'picture_bytes': _quantiles(arrays['picture_length']),
        'languages': {language: count for count, language in languages},
        'tasks': {
            task: int(table.holding(*needs).sum()) for task, needs in web_tasks.TASKS.items()
        },
        'texts': {
            field: {'texts': len(values), 'bytes': _quantiles(values)}
            for field, values in lengths.items()
        },
        'score': {'known': len(known), 'quantiles': _quantiles(known)} if len(known) else {},
    }
    return report | {'warnings': _warnings(table, report)}


def as_lines(report: Mapping[str, Any]) -> list[str]:
    """The report as lines to print."""
    size, pictures = report['records'], report['picture_bytes']
    lines = [
        f'{report["directory"]} ({report["kind"]}, card {report["card"]}): {size:,} records in '
        f'{report["files"]:,} files, {report["unreadable"]:,} unreadable',
        f'index {report["index_bytes"] / 1e6:,.1f} MB, {report["index_bytes"] / size:.0f} bytes a '
        f'record; pictures of {pictures["0.0"]:,.0f} to {pictures["1.0"]:,.0f} (median '
        f'{pictures["0.5"]:,.0f}) bytes',
        '',
        'task          records   share',
    ]
    lines += [f'{t:12}{n:9,}  {n / size:6.1%}' for t, n in report['tasks'].items() if n]
    lines += ['', 'language      records   share']
    lines += [f'{name:12}{n:9,}  {n / size:6.1%}' for name, n in report['languages'].items()]
    lines += ['', 'text              texts  a record   bytes: median      99 %       most']
    for field, about in report['texts'].items():
        length = about['bytes']
        lines.append(
            f'{field:12}{about["texts"]:11,}{about["texts"] / size:10.2f}{length["0.5"]:16,.0f}'
            f'{length["0.99"]:10,.0f}{length["1.0"]:11,.0f}'
        )
    if score := report['score']:
        ends = ', '.join(f'{100 * float(q):g} % {x:.4g}' for q, x in score['quantiles'].items())
        lines += ['', f'score of {score["known"]:,} records: {ends}']
    return lines + ['', *(f'warning: {text}' for text in report['warnings'])]


def sheet(table: WebTable, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Examples drawn evenly from a set, as a picture and as lines of text.

    The tasks take turns, whatever the shares of the records that have them.
    """
    tasks = [task for task, needs in web_tasks.TASKS.items() if table.holding(*needs).any()]
    sets = [WebSet(FLAGS.kind, table.directory, {task: 1.0}, seed=seed) for task in tasks]
    sources = [WebSource(table, web_set) for web_set in sets]
    cells, texts = [], []
    for number in range(count):
        source = sources[number % len(sources)]
        item = (2 * number + 1) * len(source) // (2 * count)
        example, row = source[item], source.row(item)
        height, width = example.frames.shape[1:3]
        title = f'{row}  {example.kind}  {table.language(row)}  {width}x{height}'
        if not np.isnan(score := table.arrays['score'][row]):
            title += f'  {score:.3g}'
        boxes = places.read_boxes(example.answer) if example.kind == 'detect' else ()
        notes = [title, example.prompt]
        cells.append(contact_sheet.Cell(example.frames[0], notes, example.answer, boxes))
        texts.append(f'{title}\n    {example.prompt}\n    {example.answer}')
    rows = [contact_sheet.Row(cells[k : k + _COLUMNS]) for k in range(0, count, _COLUMNS)]
    return contact_sheet.draw(rows, height=contact_sheet.HEIGHT), texts


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {
        str(q): float(x) for q, x in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
    }


def _warnings(table: WebTable, report: Mapping[str, Any]) -> list[str]:
    size, lines = report['records'], []
    if unreadable := report['unreadable']:
        file, offset, reason = table.about['skipped'][0]
        lines.append(f'{unreadable:,} unreadable records, first {file}, byte {offset}: {reason}')
    if silent := size - int((table.arrays['holds'] != 0).sum()):
        lines.append(f'{silent:,} records have no text at all; no task uses them')
    if 'question' in table.arrays:
        questions = int(table.holding('question').sum())
        if lone := questions - int(table.holding('question', 'answer').sum()):
            lines.append(f'{lone:,} questions have no answer')
    same = size - len(np.unique(table.arrays['picture_checksum']))
    if same > size / 1000:
        lines.append(f'{same:,} pictures seem to be there more than once (same CRC-32C)')
    if report['score'] and (unknown := size - report['score']['known']):
        lines.append(f'{unknown:,} records have no score: keep_top and min_score leave them out')
    return lines


def _fields(pairs: Sequence[str]) -> dict[str, str]:
    fields = {}
    for pair in pairs:
        field, equals, path = pair.partition('=')
        if not equals:
            raise app.UsageError(f'--fields: {pair!r} is no FIELD=PATH')
        fields[field] = path
    return fields


def main(argv: list[str]) -> None:
    """Runs the command."""
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.WARNING)
    output, begin = paths.of(FLAGS.output), time.perf_counter()
    dataset = open_web.open_format(
        FLAGS.kind,
        FLAGS.dataset,
        card=FLAGS.card,
        fields=_fields(FLAGS.fields),
        split=FLAGS.split,
        files=FLAGS.files,
        pictures=FLAGS.pictures,
    )
    table = open_index(WebTable, dataset, location=FLAGS.location, on_corrupt=FLAGS.on_corrupt)
    print(f'opened in {time.perf_counter() - begin:.1f} s')
    report = report_of(table)
    print('\n'.join(as_lines(report)))
    picture, texts = sheet(table, FLAGS.examples, FLAGS.seed)
    print('\n'.join(texts))
    output.mkdir(parents=True, exist_ok=True)
    content = json.dumps(report, indent=1, ensure_ascii=False)
    paths.write(output / 'report.json', content.encode())
    contact_sheet.save(output / 'sheet.png', picture)
    print(f'wrote {output / "report.json"} and {output / "sheet.png"}')


if __name__ == '__main__':
    define_flags()
    command.run('inspect_web', main)
