"""Huge pages are asked for where a CPU computes, once."""

import os
import subprocess
import sys

import pytest

from rt2_jax.parallel import huge_pages

ASKED = 'glibc.malloc.hugetlb=1'


@pytest.fixture
def mode(tmp_path, monkeypatch):
    """Writes which processes get huge pages, as Linux says it."""
    monkeypatch.setattr(huge_pages, '_MODE', tmp_path / 'enabled')
    return (tmp_path / 'enabled').write_text


def test_they_are_asked_for_where_that_is_needed(mode):
    assert huge_pages.wanted('') == ''  # no Linux
    for words in ('[always] madvise never', 'always madvise [never]'):
        mode(words)
        assert huge_pages.wanted('') == ''
    mode('always [madvise] never')
    assert huge_pages.wanted('') == ASKED
    assert huge_pages.wanted('glibc.malloc.check=1') == f'glibc.malloc.check=1:{ASKED}'
    for tunables in ('glibc.malloc.hugetlb=0', ASKED):
        assert huge_pages.wanted(tunables) == ''


def test_no_accelerator_may_be_there(mode, monkeypatch):
    mode('always [madvise] never')
    config = {'jax_platforms': 'tpu,cpu'}
    monkeypatch.setattr(huge_pages.jax, 'config', type('', (), {'values': config}))
    assert huge_pages.wanted('') == ''
    config['jax_platforms'] = None
    monkeypatch.setattr(huge_pages.importlib.metadata, 'entry_points', lambda group: [group])
    assert huge_pages.wanted('') == ''


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason='huge pages are of Linux')
def test_a_command_starts_anew_with_its_arguments(tmp_path):
    command = tmp_path / 'command.py'
    command.write_text(
        'import os, pathlib, sys\n'
        'from rt2_jax.parallel import huge_pages\n'
        f'huge_pages._MODE = pathlib.Path({str(tmp_path / "enabled")!r})\n'
        'print("begins", flush=True)\n'
        'huge_pages.restart()\n'
        'print(os.environ["GLIBC_TUNABLES"], *sys.argv[1:])\n'
    )
    (tmp_path / 'enabled').write_text('always [madvise] never')
    environment = {k: v for k, v in os.environ.items() if k != 'GLIBC_TUNABLES'}
    printed = subprocess.run(
        [sys.executable, command, '--config=a b', 'c'],
        capture_output=True, text=True, check=True, env=environment | {'JAX_PLATFORMS': 'cpu'},
    ).stdout.splitlines()  # fmt: skip
    assert printed == ['begins', 'begins', f'{ASKED} --config=a b c']
