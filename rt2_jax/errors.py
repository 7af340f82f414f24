"""Errors that the user can mend, and how a command reports them: one line, exit code 1."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import sys


class UserError(Exception):
    """The user can mend it: the message says what is wrong, where, and what to do.

    Every error class of the package that a user can meet derives from it, beside the built-in class
    that callers catch (ValueError, OSError, ...).
    """


class MissingPackage(UserError, ImportError):
    """A package of an extra is not installed."""

    def __init__(self, need: str, package: str, extra: str):
        super().__init__(f"{need} needs {package}: pip install 'rt2_jax[{extra}]'")


@contextlib.contextmanager
def exit_on_user_error(command: str, *others: type[Exception]) -> Iterator[None]:
    """Ends the process with the line 'COMMAND: MESSAGE' and exit code 1 where the user can mend an error.

    Args:
        command: name of the command.
        *others: further classes that are reported so. OSError always is: a full disk or a missing
            file is the user's to mend.

    Ctrl-C ends it with code 130.
    """
    try:
        yield
    except (UserError, OSError, *others) as error:
        sys.exit(f'{command}: {error}')
    except KeyboardInterrupt:
        sys.exit(130)
