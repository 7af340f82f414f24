"""Exit codes of `train`, `collect` and what starts them, and what a launcher does with each.

| code    | name       | meaning                                        | what to do              |
|---------|------------|------------------------------------------------|-------------------------|
| 0       | DONE       | all steps are done, all episodes collected     | nothing                 |
| 1       | USER_ERROR | the user can mend it: flags, config, data,     | mend it; the same       |
|         |            | rights; also Python's code for a bug           | command fails again     |
| 2       | USAGE      | a launcher or argparse refuses its arguments   | as for 1                |
| 70      | CRASHED    | the runtime failed: a lost host, a device, a   | start again, not for    |
|         |            | bucket that does not answer                    | ever                    |
| 75      | STOPPED    | stopped early and saved: preemption, a time    | start the same command  |
|         |            | limit, SIGTERM, Ctrl-C                         | again, however often    |
| 128 + N |            | killed by signal N (9: out of memory, a lost   | as for 70               |
|         |            | machine; 6: JAX lost its coordinator)          |                         |

70 and 75 are EX_SOFTWARE and EX_TEMPFAIL of sysexits.h; absl ends with 1 where flags are wrong.
launch/README.md has what each engine makes of them.
"""

DONE = 0
USER_ERROR = 1
USAGE = 2
CRASHED = 70
STOPPED = 75

# The statuses of XLA with which the same program fails again: it does not fit, or cannot be compiled.
_FAILS_AGAIN = ('RESOURCE_EXHAUSTED', 'INVALID_ARGUMENT', 'UNIMPLEMENTED')


def of_runtime_error(error: Exception) -> int:
    """The exit code for an error of JAX's runtime (`jax.errors.JaxRuntimeError`).

    A lost host shows up as such an error on the other hosts, and a restart helps; after running out of
    memory it does not.
    """
    return USER_ERROR if str(error).startswith(_FAILS_AGAIN) else CRASHED
