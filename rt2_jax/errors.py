"""Errors that the user can mend; rt2_jax/command.py reports them in one line."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can mend: its message says what is wrong, where, and what to do.

    All such errors of the package derive from it, and from the built-in class that callers catch
    (ValueError, OSError, ...).

    Attributes:
        exit_code: the exit code of a command that fails with it (rt2_jax/exit_codes.py).
    """

    exit_code = 1


class MissingPackage(UserError, ImportError):
    """A package of an extra is not installed."""

    def __init__(self, need: str, package: str, extra: str) -> None:
        super().__init__(f"{need} needs {package}: pip install 'rt2_jax[{extra}]'")
