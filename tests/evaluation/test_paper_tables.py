"""The paper's tables: from prepared evaluations, and once with the real commands."""

import dataclasses
import json
import pathlib
import signal
import subprocess
import sys
import time

from etils import epath
import flax.linen as nn
import in_process
import jax
import jax.numpy as jnp
import pytest

pytest.importorskip('mujoco', reason="the tabletop needs pip install 'rt2_jax[sim]'")
pytest.importorskip('matplotlib', reason="pictures need pip install 'rt2_jax[look]'")

from rt2_jax import configuration, exit_codes, tables
from rt2_jax.evaluation import command_runner, paper_rows, table_job, table_runs
from rt2_jax.evaluation.paper_rows import Row, Table
from rt2_jax.evaluation.table_runs import TableError
from rt2_jax.models import backbone
from rt2_jax.policy.from_flags import FlagError
from rt2_jax.text.tokenizer import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parents[2]
TINY = 'tests/training/tiny_config.py'
BASES = {'base': Row('base', 'base', f'{TINY}:web')}
UNBUILT = Row('R3M', 'r3m', '', 'R3M', {'t': '45 32 12'})
HEADLINE = Row('ours', 'ours', f'{TINY}:robot', 'RT-2', {'t': '91 70 -'}, headline=True)
STARTED = Row('started', 'started', f'{TINY}:robot', changes={'batch_size': 2}, starts_from='base')
SUITES = ('seen', 'unseen_objects_easy')
TABLE = Table(
    't', 'A table', 'somewhere', SUITES, 'unseen', SUITES[1:], (UNBUILT, HEADLINE, STARTED)
)


@pytest.fixture(autouse=True)
def project(monkeypatch):
    """The commands run in the project's folder."""
    monkeypatch.chdir(ROOT)


def make_job(folder, tables=(TABLE,), **changes) -> table_job.Job:
    size = table_runs.Size(
        collected={'tabletop': 4, 'elsewhere': 2}, evaluated=3, seeds=2, steps=4, filmed=1
    )
    root = epath.Path(folder)
    folders = table_runs.Folders(root, root / 'data')
    return table_job.Job(tables, folders, dataclasses.replace(size, **changes), BASES)


class Commands:
    """Stands in for the commands: leaves what they would, with success by episode number."""

    def __init__(self, job, succeeds=lambda arguments, episode: episode != 1):
        self.job, self.succeeds, self.ran = job, succeeds, []
        rows = [*BASES.values(), *(row for table in job.tables for row in table.rows)]
        self.runs = {
            str(run.directory): run
            for row in rows
            for run in [table_runs.Run(row, seed, job.folders, job.size) for seed in (0, 1)]
        }

    def __call__(self, name, arguments):
        self.ran.append(name)
        module, flags = arguments[1], dict(word[2:].split('=') for word in arguments if '=' in word)
        if module.endswith('collect'):
            folder = epath.Path(flags['output'])
            folder.mkdir(parents=True)
            (folder / 'dataset_info.json').write_text('{}')
            return
        run = self.runs[flags['workdir']]
        if module.endswith('train'):
            (run.directory / 'checkpoints' / '4').mkdir(parents=True)
            (run.directory / 'config.json').write_text(configuration.to_json(run.config))
            for file in ('tokenizer.model', 'embodiment.json'):
                (run.directory / file).write_text('')
            return
        output = epath.Path(flags['output'])
        output.parent.mkdir(parents=True, exist_ok=True)
        episodes = [
            {'seed': k, 'group': 'name', 'success': self.succeeds(arguments, k), 'recognised': True}
            for k in range(int(flags['episodes']))
        ]
        manifest = dict(
            step=4, plan='--plan' in arguments, config=run.config.to_dict(), task=None,
            temperature=0.0, execution_noise=0.0, weights='stored', seeds={'first_episode': 0},
        )  # fmt: skip
        pace = {'decisions': 10, 'actions_per_second': 50.0}
        figures = {'rollouts': episodes, 'decision_ms': pace}
        suites = {suite: figures for suite in flags['suite'].split(',')}
        record = {'policies': {'checkpoint': suites}, 'manifest': manifest}
        output.write_text(json.dumps(record))
        if 'video' in flags:
            epath.Path(flags['video']).write_text('a film')


def play(monkeypatch, job, **settings) -> list[str]:
    """Makes the tables; the names of the commands that ran."""
    commands = Commands(job, **settings)
    monkeypatch.setattr(command_runner, 'run', commands)
    tables.run(job)
    return commands.ran


def test_rows_fit_their_tables():
    names = {}
    for table in paper_rows.TABLES.values():
        for row in [*table.rows, *paper_rows.BASES.values()]:
            *numbers, average = table.paper(row)
            if None not in numbers:
                averaged = [n for n, c in zip(numbers, table.columns) if c in table.averaged]
                # The paper's averages are of trials, not of columns.
                assert average == pytest.approx(sum(averaged) / len(averaged), abs=3), row.label
            recipe = row.config, row.changes, row.starts_from
            assert names.setdefault(row.name, recipe) == recipe, row.name
            assert not row.starts_from or row.starts_from in paper_rows.BASES
    folders = table_runs.Folders(epath.Path('/tables'), epath.Path('/tables/data'))
    for name, (config, changes, starts_from) in names.items():
        if config:
            row = Row('', name, config, changes=changes, starts_from=starts_from)
            run = table_runs.Run(row, 1, folders, table_runs.FULL)
            configuration.check(run.config)
            assert epath.Path(run.config.tokenizer).name in {'', *paper_rows.VOCABULARIES}


def test_sizes_differ_three_times_but_for_palm_e():
    tokenizer = Tokenizer.load_default()

    def count(argument):
        config = configuration.load('configs/tabletop.py', argument)
        model = backbone.build(config.model, tokenizer.vocab_size, tokenizer.integer_ids.tolist())
        image, text = jnp.zeros([1, 1, 96, 96, 3], jnp.uint8), jnp.zeros([1, 24], jnp.int32)
        params = jax.eval_shape(model.init, jax.random.key(0), image, text, text)
        return sum(x.size for x in jax.tree.leaves(nn.meta.unbox(params)))

    assert count('cofinetune') > 3 * count('cofinetune_small')
    assert count('palm_e') == pytest.approx(count('cofinetune'), rel=0.05)


def test_vocabularies_are_built_before_what_reads_them(tmp_path):
    rows = tuple(row for row in paper_rows.BASELINES if row.name == 'palm_e')
    table = dataclasses.replace(TABLE, rows=rows)
    job = dataclasses.replace(make_job(tmp_path, [table], seeds=1), bases=paper_rows.BASES)
    names = [stage.name for stage in job.stages()]
    trained = [f'train {name} seed 0' for name in ('palm_e_pretrain', 'palm_e')]
    built = [name for name in names if name.startswith('build')]
    collected = ['collect 2 episodes of elsewhere', 'collect 4 episodes of train']
    assert 'build overwritten.model' in built
    assert names == [*built, *collected, *trained, 'evaluate palm_e seed 0']
    run = job.runs(rows[0])[0]
    first = next(stage for stage in job.stages() if stage.name == 'build overwritten.model')
    assert f'--output={run.config.tokenizer}' in first.arguments and not first.is_done()
    epath.Path(run.config.tokenizer).write_text('')
    assert first.is_done() and first.name not in [stage.name for stage in job.stages()]


def test_everything_missing_is_made_once(tmp_path, monkeypatch, capsys):
    job = make_job(tmp_path)
    assert play(monkeypatch, job) == [
        'collect 4 episodes of train',
        'train ours seed 0',
        'train ours seed 1',
        'train base seed 0',
        'train started seed 0',
        'evaluate ours seed 0',
        'evaluate ours seed 1',
        'evaluate started seed 0',
    ]
    assert play(monkeypatch, job) == []
    folder = tmp_path / 'tablet'
    text = (folder / 'table.md').read_text()
    assert text in capsys.readouterr().out
    rows = {line.split('|')[1].strip(): line for line in text.splitlines() if line[:1] == '|'}
    assert rows['**R3M**'].count('not built') == 3
    assert '45' in rows["paper's R3M"] and '–' in rows["paper's RT-2"]
    assert (folder / 'table.png').read_bytes()[:4] == b'\x89PNG'
    assert (folder / 'ours.mp4').read_text() == 'a film' and 'ours.mp4' in text
    results = json.loads((folder / 'results.json').read_text())
    unbuilt, ours, _ = results['rows']
    assert not unbuilt['built'] and 'cells' not in unbuilt
    cell = ours['cells']['seen']
    assert (cell['success'], cell['episodes']) == (0.6667, 6)
    assert cell['seeds']['1']['episodes'] == 3 and cell['execution']['count'] == 4
    assert ours['average']['episodes'] == 6  # of one suite: seen is none of the unseen
    assert results['manifest']['seeds'] == {'r3m': [], 'ours': [0, 1], 'started': [0]}
    config = results['manifest']['policies']['started seed 0']['config']
    assert config['init_from'].endswith('base/seed0/run') and config['batch_size'] == 2


def test_only_what_is_missing_is_measured(tmp_path, monkeypatch):
    play(monkeypatch, make_job(tmp_path, suites=1))
    measured = ['ours seed 0', 'ours seed 1', 'started seed 0']
    assert play(monkeypatch, make_job(tmp_path)) == [f'evaluate {name}' for name in measured]
    evaluations = tmp_path / 'ours/seed0/evaluations'
    records = [json.loads((evaluations / f'{n}.json').read_text()) for n in (1, 2)]
    suites = [list(record['policies']['checkpoint']) for record in records]
    assert suites == [['seen'], ['unseen_objects_easy']]
    assert play(monkeypatch, make_job(tmp_path, evaluated=2)) == []  # fewer: the first of them
    (evaluations / '2.mp4').unlink()
    (evaluations / '1.mp4').unlink()
    assert play(monkeypatch, make_job(tmp_path)) == ['film ours seed 0']
    records[0]['manifest']['step'] = 3
    (evaluations / '1.json').write_text(json.dumps(records[0]))
    assert play(monkeypatch, make_job(tmp_path)) == ['evaluate ours seed 0']


def test_plans_are_compared_episode_by_episode(tmp_path, monkeypatch):
    rows = tuple(
        dataclasses.replace(HEADLINE, label=label, plan=plan, paper={})
        for label, plan in (('without', False), ('with', True))
    )
    table = dataclasses.replace(TABLE, rows=rows, paired=True, source='')
    job = make_job(tmp_path, [table], seeds=1)
    ran = play(monkeypatch, job, succeeds=lambda words, k: '--plan' in words or k == 1)
    assert ran[-2:] == ['evaluate ours seed 0 without plans', 'evaluate ours seed 0 with plans']
    results = json.loads((tmp_path / 'tablet/results.json').read_text())
    assert [row['cells']['seen']['success'] for row in results['rows']] == [0.3333, 1.0]
    difference = results['difference']['seen']
    assert (difference['first_only'], difference['second_only'], difference['episodes']) == (
        0,
        2,
        3,
    )
    assert '+67' in (tmp_path / 'tablet/table.md').read_text()
    assert {'ours_plans.mp4', 'ours_no_plans.mp4'} < {
        p.name for p in (tmp_path / 'tablet').iterdir()
    }


def test_a_changed_config_is_refused(tmp_path, monkeypatch):
    play(monkeypatch, make_job(tmp_path))
    started = dataclasses.replace(STARTED, changes={'batch_size': 4})
    job = make_job(tmp_path, [dataclasses.replace(TABLE, rows=(started,))])
    with pytest.raises(TableError, match='batch_size: was 2, is 4.* move .*started/seed0 away'):
        tables.run(job)
    with pytest.raises(TableError, match='total_steps: was 4, is 5'):
        tables.run(make_job(tmp_path, steps=5))
    (tmp_path / 'ours/seed0/run').rename(tmp_path / 'elsewhere')
    with pytest.raises(TableError, match='evaluations of a run that is gone'):
        tables.run(make_job(tmp_path))


def test_trouble_is_one_line(tmp_path, monkeypatch):
    line = in_process.run(monkeypatch, 'tables', '--table=44')
    assert "Unknown table '44'; did you mean '4'?" in line
    (tmp_path / 'file').write_text('')
    line = in_process.run(monkeypatch, 'tables', '--table=4', f'--workdir={tmp_path}/file')
    assert f'cannot make {tmp_path}/file/full' in line
    data = f'--data={tmp_path}'
    line = in_process.run(monkeypatch, 'tables', '--table=4', f'--workdir={tmp_path}/w', data)
    assert 'holds no data set' in line
    monkeypatch.chdir(tmp_path)
    line = in_process.run(monkeypatch, 'tables', '--table=6', f'--workdir={tmp_path}/w')
    assert 'there is no configs/tabletop.py here' in line


def test_a_table_of_some_rows():
    some = tables.some_rows(TABLE, ['started', 'ours'])
    assert some.rows == (HEADLINE, STARTED) and some.columns == TABLE.columns
    with pytest.raises(
        FlagError, match="--rows: Unknown row of table t 'our'; did you mean 'ours'"
    ):
        tables.some_rows(TABLE, ['our'])


def test_failed_and_stopped_commands(tmp_path, capfd):
    command_runner.run('nothing', ['-c', 'pass'])
    with pytest.raises(command_runner.CommandFailed, match='train failed with code 3'):
        command_runner.run('train', ['-c', 'import sys; sys.exit(3)'])
    with pytest.raises(KeyboardInterrupt):
        command_runner.run('train', ['-c', f'import sys; sys.exit({exit_codes.STOPPED})'])
    assert "$ python -c 'import sys; sys.exit(3)'" in capfd.readouterr().out


def test_an_interruption_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def interrupt(name, arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(command_runner, 'run', interrupt)
    monkeypatch.setattr(in_process.exit_codes, 'USER_ERROR', exit_codes.STOPPED)
    line = in_process.run(monkeypatch, 'tables', '--table=4', f'--workdir={tmp_path}')
    assert line == f'tables: interrupted. {tables.AGAIN}'


CHILD = """
import pathlib, signal, sys, time
note = pathlib.Path(sys.argv[1])
def save(*_):
    note.write_text("saved")
    sys.exit(75)
signal.signal(signal.SIGTERM, save)
note.write_text("started")
time.sleep(60)
"""
PARENT = """
import signal, sys
from rt2_jax.evaluation import command_runner
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background ignores it
try:
    command_runner.run("train", ["-c", *sys.argv[1:]])
except KeyboardInterrupt:
    sys.exit(75)
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_signal_lets_the_command_save(tmp_path, number):
    """Whether it was stopped or killed, and though the child alone knows how to save."""
    note = tmp_path / 'note'
    parent = subprocess.Popen([sys.executable, '-c', PARENT, CHILD, str(note)])
    deadline = time.monotonic() + 60
    while not note.exists() or not note.read_text():
        assert time.monotonic() < deadline and parent.poll() is None
        time.sleep(0.02)
    parent.send_signal(number)
    assert parent.wait(60) == (-number if number == signal.SIGKILL else exit_codes.STOPPED)
    while note.read_text() != 'saved':
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_real_commands(tmp_path, capfd):
    """Collects, trains and measures; run again, it has nothing to do."""
    rows = Row('R3M', 'r3m'), dataclasses.replace(HEADLINE, paper={})
    table = Table('t', 'A table', '', ('seen',), 'average', ('seen',), rows)
    for commands in (3, 0):
        tables.run(make_job(tmp_path, [table], seeds=1, evaluated=2))
        assert capfd.readouterr().out.count('$ python -m') == commands
    results = json.loads((tmp_path / 'tablet/results.json').read_text())
    cell = results['rows'][1]['cells']['seen']
    assert cell['episodes'] == 2 and (tmp_path / 'tablet/ours.mp4').stat().st_size > 0
    assert results['manifest']['data']['episodes'] == 4
