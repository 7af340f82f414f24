"""Errors that the user can mend; rt2_jax/command.py reports them in one line."""

from __future__ import annotations


class UserError(Exception):
    """The user can mend it: the message says what is wrong, where, and what to do.

    Every error class of the package that a user can meet derives from it, beside the built-in class
    that callers catch (ValueError, OSError, ...).

    Attributes:
        exit_code: of a command that ends by it (rt2_jax/exit_codes.py).
    """

    exit_code = 1


class MissingPackage(UserError, ImportError):
    """A package of an extra is not installed."""

    def __init__(self, need: str, package: str, extra: str):
        super().__init__(f"{need} needs {package}: pip install 'rt2_jax[{extra}]'")
