"""How every binary starts, and how it reports what the user can mend.

Such an error is one line, 'NAME: MESSAGE', and exit code 1 or the error's own:

if __name__ == '__main__':
    define_flags()
    command.run('serve', main)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import contextlib
import dis
import sys
from types import TracebackType

from absl import app, flags

from rt2_jax import exit_codes
from rt2_jax.errors import UserError

INTERRUPTED = 130  # 128 + SIGINT, as shells have it


def parse_flags(argv: Sequence[str]) -> list[str]:
    """Parses flags as `app.run` does, but raises errors instead of printing them."""
    return flags.FLAGS(list(argv))


def run(
    name: str,
    main: Callable[[list[str]], None],
    argv: Sequence[str] | None = None,
    flags_parser: Callable[[Sequence[str]], list[str]] = parse_flags,
) -> None:
    """Runs a binary as `app.run` does, with its errors in one line.

    Args:
        name: of the binary; error lines begin with it.
        main: takes the arguments that are no flags, the program's name first.
        argv: the command line; by default that of the process.
        flags_parser: parses a command line and returns the arguments that are no flags.
    """

    def parse(arguments: Sequence[str]) -> list[str]:
        with one_line(name):
            return flags_parser(arguments)

    def guarded_main(arguments: list[str]) -> None:
        with one_line(name):
            main(arguments)

    app.run(guarded_main, argv=list(argv) if argv is not None else None, flags_parser=parse)


@contextlib.contextmanager
def one_line(name: str) -> Iterator[None]:
    """Reports an error that the user can mend in one line, and ends the process."""
    try:
        yield
    except KeyboardInterrupt:
        print(f'{name}: interrupted', file=sys.stderr)
        sys.exit(INTERRUPTED)
    except Exception as error:
        if not is_mendable(error):
            raise
        text = str(error) or type(error).__name__
        print(f'{name}: {" ".join(text.split())}', file=sys.stderr)
        sys.exit(getattr(error, 'exit_code', exit_codes.USER_ERROR))


def is_mendable(error: BaseException) -> bool:
    """Whether the user can mend an error, rather than whoever writes the code.

    A full disk or a missing file is the user's to mend. A ValueError or an ImportError is if this package
    raised it itself, with a message; one from a library or from an expression is a bug.
    """
    if isinstance(error, (UserError, OSError, app.UsageError, flags.Error)):
        return True
    return isinstance(error, (ValueError, ImportError)) and _raised_here(error.__traceback__)


def _raised_here(traceback: TracebackType | None) -> bool:
    """Whether a `raise` statement of this package raised it."""
    if traceback is None:
        return False
    while traceback.tb_next:
        traceback = traceback.tb_next
    code = traceback.tb_frame.f_code.co_code
    raises = dis.opname[code[traceback.tb_lasti]] == 'RAISE_VARARGS'
    # Not __name__, which is '__main__' in the module that `python -m` runs.
    package = traceback.tb_frame.f_globals.get('__package__') or ''
    return raises and package.split('.')[0] == 'rt2_jax'
