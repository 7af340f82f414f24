"""Why a checkpoint could not be written, in one line; silences Orbax's own reports of it."""

from __future__ import annotations

import re
import sys
import warnings

import absl.logging
from etils import epath
from orbax.checkpoint._src.path import gcs_utils

from rt2_jax import buckets, exit_codes
from rt2_jax.errors import UserError

# Orbax asks Google's own client for this, which is another package, with other credentials, and needs a
# right (storage.buckets.get) that writing objects does not. Of buckets with folders, empty ones stay behind.
gcs_utils.is_hierarchical_namespace_enabled = lambda path: False
# Errors of a save in the background are raised by `Checkpoints.check`; Orbax logs each three times.
absl.logging.get_absl_logger().addFilter(
    lambda record: not (record.exc_info and '/orbax/' in record.pathname)
)
# A failed save leaves coroutines that are never awaited, and callbacks of TensorStore to a closed event
# loop: each would print its stack as the process ends.
warnings.filterwarnings('ignore', message='coroutine .* was never awaited')
_unraisable = sys.unraisablehook
sys.unraisablehook = lambda info: (
    None if str(info.exc_value) == 'Event loop is closed' else _unraisable(info)
)


# Statuses of TensorStore after which the same request may succeed.
_TRANSIENT = ('UNAVAILABLE', 'DEADLINE_EXCEEDED', 'ABORTED')


class SaveFailed(UserError, OSError):
    """A checkpoint could not be written; `exit_code` says whether starting again may help."""


def explain(
    error: Exception, step: int | None, directory: epath.Path, good: int | None
) -> Exception:
    """Turns the error of a save into SaveFailed; an error of the program stays as it is.

    Args:
        error: what Orbax raised.
        step: that was being saved.
        directory: of the checkpoints.
        good: the last step that was saved completely.
    """
    cause = _cause(error)
    if cause is None:
        return error
    last = f'the last good one is of step {good}' if good else 'there is none before'
    failure = SaveFailed(
        f'the checkpoint of step {step} could not be written to {directory}: {cause}; {last}. Once '
        'that is mended, the same command goes on from there.'
    )
    if isinstance(error, buckets.Unavailable) or cause.startswith(_TRANSIENT):
        failure.exit_code = exit_codes.CRASHED
    return failure


def _cause(error: Exception) -> str | None:
    text = ' '.join(str(error).split())
    if isinstance(error, UserError):
        return text
    if isinstance(error, OSError):
        return f'{error.strerror or text}' + (f' ({error.filename})' if error.filename else '')
    # TensorStore's errors begin with a status: 'PERMISSION_DENIED: ...'.
    if not re.match(r'[A-Z_]+: ', text):
        return None
    system = re.search(r'([^:"]+) \[os_error_code', text)  # 'No space left on device'
    denied = text.startswith(('PERMISSION_DENIED', 'UNAUTHENTICATED'))
    hint = f'; {buckets.HINTS["gs"]}' if denied else ''
    return system[1].strip() if system else text.partition(' [')[0][:400] + hint
