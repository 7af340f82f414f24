"""Errors that the user can mend; rt2_jax/command.py reports them in one line."""

from __future__ import annotations

import functools
from typing import Any


class UserError(Exception):
    """An error that the user can mend: its message says what is wrong, where, and what to do.

    All such errors of the package derive from it, and from the built-in class that callers catch
    (ValueError, OSError, ...).

    Attributes:
        exit_code: the exit code of a command that fails with it (rt2_jax/exit_codes.py).
    """

    exit_code = 1


class MissingPackage(UserError, ImportError):
    """A package of an extra, or of an environment of its own, is not installed.

    Args:
        need: what needs it.
        package: its name.
        extra: the extra that has it.
        remedy: the command that installs it, where that is no extra.
    """

    def __init__(self, need: str, package: str, extra: str = '', *, remedy: str = '') -> None:
        remedy = remedy or f"pip install 'rt2_jax[{extra}]'"
        super().__init__(f'{need} needs {package}: {remedy}')
        self._again = functools.partial(type(self), need, package, extra, remedy=remedy)

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker's error reaches the process that waits for it as a pickle.
        return self._again, ()
