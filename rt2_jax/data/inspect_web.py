"""Says what a web set holds: counts, languages, scores, lengths, and examples with pictures.

    python -m rt2_jax.data.inspect_web --dataset=DIR --kind=jsonl --output=OUT \
        --fields=caption=text,language=lang

It indexes the set if it has no index. What it prints is in OUT/report.json too; OUT/sheet.png shows
examples as training sees them, drawn evenly from the set, boxes from their answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import time
from typing import Any

from absl import app, flags, logging
import numpy as np

from rt2_jax import command, paths
from rt2_jax.data.data_config import WebSet
from rt2_jax.data.index.web_table import WebTable
from rt2_jax.data.looking import charts, contact_sheet
from rt2_jax.data.web import sources as web_sources, tasks as web_tasks
from rt2_jax.data.web.web_cards import TEXTS
from rt2_jax.data.web.web_source import WebSource
from rt2_jax.text import places

FLAGS = flags.FLAGS
QUANTILES = (0.0, 0.01, 0.1, 0.5, 0.9, 0.99, 1.0)


def define_flags() -> None:
    """Defines the flags of the command."""
    flags.DEFINE_string('dataset', None, 'Directory of the web set.')
    flags.DEFINE_enum('kind', None, web_sources.KINDS, 'Its format.')
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


def report(table: WebTable) -> dict[str, Any]:
    """Everything that the columns say of a set, JSON-serialisable."""
    arrays, size = table.arrays, len(table)
    sizes = np.bincount(arrays['language'], minlength=len(table.languages))
    languages = sorted(zip(sizes.tolist(), table.languages), reverse=True)
    files = list(table.local.glob('*.npy'))
    found = {
        'directory': table.directory,
        'kind': table.about['kind'],
        'card': table.about['card'],
        'records': size,
        'files': len(table.files),
        'unreadable': table.about['skipped_count'],
        'index_bytes': sum(file.stat().length for file in files),
        'picture_bytes': _quantiles(arrays['picture_length']),
        'languages': {language: count for count, language in languages},
        'tasks': {
            task: int(table.holding(*needs).sum()) for task, needs in web_tasks.TASKS.items()
        },
        'texts': {field: _texts(arrays, field) for field in TEXTS if field in arrays},
        'score': _scores(arrays['score']),
    }
    found['warnings'] = _warnings(table, found)
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """A report as text."""
    size = found['records']
    out = [
        f'{found["directory"]} ({found["kind"]}, card {found["card"]}): {size:,} records in '
        f'{found["files"]:,} files, {found["unreadable"]:,} unreadable',
        f'index {found["index_bytes"] / 1e6:,.1f} MB, {found["index_bytes"] / size:.0f} bytes a '
        f'record; pictures of {_span(found["picture_bytes"], ",.0f")} bytes',
        '',
        'task          records   share',
    ]
    out += [f'{t:12}{n:9,}  {n / size:6.1%}' for t, n in found['tasks'].items() if n]
    out += ['', 'language      records   share']
    out += [f'{name:12}{n:9,}  {n / size:6.1%}' for name, n in found['languages'].items()]
    out += ['', 'text              texts  a record   bytes: median      99 %       most']
    for field, about in found['texts'].items():
        length = about['bytes']
        out.append(
            f'{field:12}{about["texts"]:11,}{about["texts"] / size:10.2f}{length["0.5"]:16,.0f}'
            f'{length["0.99"]:10,.0f}{length["1.0"]:11,.0f}'
        )
    if score := found['score']:
        ends = ', '.join(f'{100 * float(q):g} % {x:.4g}' for q, x in score['quantiles'].items())
        out += ['', f'score of {score["known"]:,} records: {ends}']
    return out + ['', *(f'warning: {text}' for text in found['warnings'])]


def sheet(table: WebTable, count: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Examples drawn evenly from a set, as a picture and as lines of text.

    A task has its turn as often as the next, whatever the shares of records that have it.
    """
    able = [task for task, needs in web_tasks.TASKS.items() if table.holding(*needs).any()]
    sets = [WebSet(FLAGS.kind, table.directory, {task: 1.0}, seed=seed) for task in able]
    sources = [WebSource(table, web_set) for web_set in sets]
    cells, said = [], []
    for number in range(count):
        source = sources[number % len(sources)]
        item = (2 * number + 1) * len(source) // (2 * count)
        example, row = source[item], source.row(item)
        height, width = example.frames.shape[1:3]
        title = f'{row}  {example.kind}  {table.language(row)}  {width}x{height}'
        if not np.isnan(score := table.arrays['score'][row]):
            title += f'  {score:.3g}'
        boxes = places.read_boxes(example.answer) if example.kind == 'detect' else ()
        cells.append(
            contact_sheet.Cell(example.frames[0], title, example.prompt, example.answer, boxes)
        )
        said.append(f'{title}\n    {example.prompt}\n    {example.answer}')
    return contact_sheet.draw(cells), said


def _quantiles(values: np.ndarray) -> dict[str, float]:
    return {str(q): float(x) for q, x in zip(QUANTILES, np.quantile(values, QUANTILES))}


def _span(quantiles: Mapping[str, float], form: str) -> str:
    return (
        f'{quantiles["0.0"]:{form}} to {quantiles["1.0"]:{form}} (median {quantiles["0.5"]:{form}})'
    )


def _texts(arrays: Mapping[str, np.ndarray], field: str) -> dict[str, Any]:
    lengths = np.diff(arrays[f'{field}_end'])
    return {'texts': len(lengths), 'bytes': _quantiles(lengths)}


def _scores(score: np.ndarray) -> dict[str, Any]:
    known = score[~np.isnan(score)]
    return {'known': len(known), 'quantiles': _quantiles(known)} if len(known) else {}


def _warnings(table: WebTable, found: Mapping[str, Any]) -> list[str]:
    size, out = found['records'], []
    if unreadable := found['unreadable']:
        file, offset, reason = table.about['skipped'][0]
        out.append(f'{unreadable:,} unreadable records, first {file}, byte {offset}: {reason}')
    if silent := size - int((table.arrays['holds'] != 0).sum()):
        out.append(f'{silent:,} records have no text at all; no task uses them')
    lone = (
        size - int(table.holding('question', 'answer').sum()) if 'question' in table.arrays else 0
    )
    if lone and (asked := int(table.holding('question').sum())) > size - lone:
        out.append(f'{asked - (size - lone):,} questions have no answer')
    same = size - len(np.unique(table.arrays['picture_checksum']))
    if same > size / 1000:
        out.append(f'{same:,} pictures seem to be there more than once (same CRC-32C)')
    if found['score'] and found['score']['known'] < size:
        unknown = size - found['score']['known']
        out.append(f'{unknown:,} records have no score: keep_top and min_score leave them out')
    return out


def _fields(given: Sequence[str]) -> dict[str, str]:
    pairs = [item.partition('=') for item in given]
    if wrong := [field for field, equals, _ in pairs if not equals]:
        raise app.UsageError(f'--fields: {wrong[0]!r} is no FIELD=PATH')
    return {field: path for field, _, path in pairs}


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'unknown arguments {argv[1:]}')
    logging.set_verbosity(logging.WARNING)
    output, begin = paths.of(FLAGS.output), time.perf_counter()
    dataset = web_sources.open_format(
        FLAGS.kind,
        FLAGS.dataset,
        card=FLAGS.card,
        fields=_fields(FLAGS.fields),
        split=FLAGS.split,
        files=FLAGS.files,
        pictures=FLAGS.pictures,
    )
    table = web_sources.open_table(dataset, location=FLAGS.location, on_corrupt=FLAGS.on_corrupt)
    print(f'opened in {time.perf_counter() - begin:.1f} s')
    found = report(table)
    print('\n'.join(lines(found)))
    picture, said = sheet(table, FLAGS.examples, FLAGS.seed)
    print('\n'.join(said))
    output.mkdir(parents=True, exist_ok=True)
    content = json.dumps(found, indent=1, ensure_ascii=False)
    paths.write(output / 'report.json', content.encode())
    charts.save(output / 'sheet.png', picture)
    print(f'wrote {output / "report.json"} and {output / "sheet.png"}')


if __name__ == '__main__':
    define_flags()
    command.run('inspect_web', main)
