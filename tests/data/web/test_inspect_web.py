"""What the inspector says of a web set is what the set holds, and its sheet shows it."""

import json
import pathlib
import subprocess
import sys

import cv2
import numpy as np
import web_files

from rt2_jax.data.looking import contact_sheet, lettering


def test_report_and_sheet(tmp_path):
    folder = web_files.write_jsonl(tmp_path / 'web')
    with open(folder / 'all.jsonl', 'a') as file:
        file.write('{"image": "0/0000.jpg"}\n{"image": "0/nowhere.jpg"}\n')
    fields = ','.join(f'{field}={path}' for field, path in web_files.JSONL_FIELDS.items())
    command = [sys.executable, '-m', 'rt2_jax.data.inspect_web', f'--dataset={folder}']
    command += ['--kind=jsonl', f'--fields={fields}', f'--output={tmp_path / "out"}']
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1 and 'line 62: picture' in failed.stderr
    done = subprocess.run(
        [*command, '--on_corrupt=skip', '--examples=7'], capture_output=True, text=True, check=True
    )
    report = json.loads((tmp_path / 'out/report.json').read_text())
    records = [web_files.record(n) for n in range(60)]
    assert report['records'] == 61 and report['unreadable'] == 1
    assert report['languages'] == {'en': 37, 'fr': 12, 'de': 12}
    assert report['tasks'] == {'caption': 60, 'vqa': 60, 'ocr': 60, 'detect': 45}
    lengths = [len(text.encode()) for record in records for text in record['captions']]
    assert report['texts']['caption']['texts'] == len(lengths)
    assert report['texts']['caption']['bytes']['0.5'] == np.median(lengths)
    assert (
        abs(report['score']['quantiles']['0.9'] - np.quantile([r['score'] for r in records], 0.9))
        < 1e-6
    )
    assert ['1 records have no text' in text for text in report['warnings']].count(True) == 1
    assert (
        '1 unreadable records, first' in done.stdout
        and 'caption            60   98.4%' in done.stdout
    )
    picture = cv2.imread(str(tmp_path / 'out/sheet.png'))[..., ::-1]
    assert (
        picture.shape[1] == 4 * (contact_sheet.WIDTH + contact_sheet.MARGIN) + contact_sheet.MARGIN
    )
    # Example 3 is the first that asks for boxes, which are drawn in the first colour.
    assert (picture == contact_sheet.COLOURS[0]).all(axis=-1).any()


def test_text_fits_the_width():
    text = 'a few words and oneverylongwordthatfitsnowhereonalineofthiswidthatall 日本語 ' * 3
    wrapped = lettering.wrapped(text, 100)
    assert max(map(lettering.width, wrapped)) <= 100
    assert lettering.width(lettering.fitted(text, 100)) <= 100
    assert ''.join(wrapped).replace(' ', '') == text.replace(' ', '')


def test_flags_are_named(tmp_path):
    command = [sys.executable, '-m', 'rt2_jax.data.inspect_web', f'--dataset={tmp_path}']
    command += ['--kind=jsonl', f'--output={tmp_path}', '--fields=capt=x']
    failed = subprocess.run(command, capture_output=True, text=True)
    assert failed.returncode == 1
    assert (
        "inspect_web: Unknown field of a web set: 'capt'; did you mean 'caption'" in failed.stderr
    )
    assert 'Traceback' not in failed.stderr and not list(pathlib.Path(tmp_path).iterdir())
