"""The binaries run in the process of a test: each that is started instead takes seconds to import."""

import contextlib
import importlib
import io
import sys

from absl import app, flags
import pytest

from rt2_jax import command, configuration, exit_codes

BINARIES = {
    'train': 'rt2_jax.train',
    'evaluate': 'rt2_jax.evaluate',
    'serve': 'rt2_jax.serve',
    'export': 'rt2_jax.export',
    'convert': 'rt2_jax.convert',
    'inspect': 'rt2_jax.checkpoints.inspect',
    'estimate': 'rt2_jax.estimate',
    'collect': 'rt2_jax.envs.tabletop.collect',
    'expert': 'rt2_jax.envs.tabletop.expert',
    'data.inspect': 'rt2_jax.data.inspect',
    'inspect_web': 'rt2_jax.data.inspect_web',
    'preview': 'rt2_jax.data.preview',
    'tables': 'rt2_jax.tables',
}


@contextlib.contextmanager
def defined_flags(module):
    """A binary's flags, taken back afterwards: other tests of the process define flags of those names."""
    before = set(flags.FLAGS)
    module.define_flags()
    try:
        yield
    finally:
        flags.FLAGS.unparse_flags()
        for flag in set(flags.FLAGS) - before:
            delattr(flags.FLAGS, flag)


def run(monkeypatch, name: str, *arguments: str) -> str:
    """Runs a binary in this process; returns the line that it ends with."""
    module = importlib.import_module(BINARIES[name])
    app.define_help_flags()
    argv = [name, *arguments]
    monkeypatch.setattr(sys, 'argv', argv)  # --config.KEY is read from there
    printed = io.StringIO()
    with defined_flags(module):
        parser = {'flags_parser': configuration.parse_flags} if 'config' in flags.FLAGS else {}
        with pytest.raises(SystemExit) as ended, contextlib.redirect_stderr(printed):
            command.run(name, module.main, argv, **parser)
    line = printed.getvalue().strip()
    assert ended.value.code == exit_codes.USER_ERROR, (
        f'{arguments}: ended with {ended.value.code!r}'
    )
    assert line and '\n' not in line and 'Traceback' not in line, line
    return line
