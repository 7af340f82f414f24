"""Runs command lines of the project in processes of their own, printed before they start."""

from __future__ import annotations

from collections.abc import Sequence
import ctypes
import shlex
import signal
import subprocess
import sys
from types import FrameType
import warnings

from rt2_jax import command, exit_codes
from rt2_jax.errors import UserError

_STOPPED = (exit_codes.STOPPED, command.INTERRUPTED, -signal.SIGINT, -signal.SIGTERM)


class CommandFailed(UserError):
    """A command ended without having done its work."""


def run(name: str, arguments: Sequence[str]) -> None:
    """Runs `python ARGUMENTS` to its end; its output goes where ours goes.

    Args:
        name: for messages.
        arguments: after `python`.

    Raises:
        CommandFailed: it failed.
        KeyboardInterrupt: a signal stopped it, or this process, before its end.
    """
    print(f'\n$ python {shlex.join(arguments)}', flush=True)
    stopped = False
    with warnings.catch_warnings():
        # The child is another program at once: what jax warns of, forked Python, does not come about.
        warnings.filterwarnings('ignore', 'os.fork', RuntimeWarning)
        child = subprocess.Popen([sys.executable, *arguments], preexec_fn=_end_with_parent)

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped
        del number, frame
        stopped = True
        child.terminate()

    before = signal.signal(signal.SIGTERM, stop)
    try:
        code = child.wait()
    except KeyboardInterrupt:
        # A terminal sends Ctrl-C to the child too. A second one would end it before it has saved.
        child.terminate()
        child.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if stopped or code in _STOPPED:
        raise KeyboardInterrupt
    if code:
        raise CommandFailed(
            f'{name} failed with code {code}, for the reason above. The same command goes on from here'
        )


def _end_with_parent() -> None:
    if sys.platform == 'linux':
        # PR_SET_PDEATHSIG: a child whose parent was killed would else train on, unseen.
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)
