r"""Several JAX processes on this machine, as on a pod: one dies, all die, and its error comes back.

    python launch/local_pod.py --processes=2 --devices_per_process=2 -- \
        python -m rt2_jax.train --config=configs/tabletop.py:quickstart --workdir=runs/pod

Each process has its own fake CPU devices; they talk through gloo on localhost. The output of each
line is marked with its process. SIGTERM and Ctrl-C go to all of them; it exits with the code of the
process that ended first (rt2_jax/exit_codes.py).
"""

import argparse
from collections.abc import Iterable, Sequence
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

from rt2_jax import exit_codes

GRACE = 10  # seconds between asking the others to end and killing them


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(('localhost', 0))
        return listener.getsockname()[1]


def environment(process: int, processes: int, devices: int, port: int) -> dict[str, str]:
    """What tells a process who it is (see `rt2_jax.parallel.distributed`)."""
    flags = os.environ.get('XLA_FLAGS', '')
    return os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'JAX_COORDINATOR_ADDRESS': f'localhost:{port}',
        'JAX_NUM_PROCESSES': str(processes),
        'JAX_PROCESS_ID': str(process),
        'XLA_FLAGS': f'{flags} --xla_force_host_platform_device_count={devices}'.strip(),
    }


def relay(process: int, stream: Iterable[str], last: list[str]) -> None:
    """Prints the output of a process line by line, and keeps its last lines."""
    for line in stream:
        print(f'[{process}] {line}', end='', flush=True)
        last.append(line)
        del last[:-30]


def run(command: Sequence[str], processes: int, devices: int) -> int:
    """Runs the command in every process; returns the first code that is not 0, or 0.

    As soon as one process fails, the others are asked to end (SIGTERM), and killed if they do not.
    """
    port = free_port()
    running = [
        subprocess.Popen(
            command,
            env=environment(number, processes, devices, port),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        for number in range(processes)
    ]
    words: list[list[str]] = [[] for _ in running]
    readers = [
        threading.Thread(target=relay, args=(number, process.stdout, words[number]))
        for number, process in enumerate(running)
    ]
    for reader in readers:
        reader.start()

    def forward(number: int, _: object) -> None:
        for process in running:
            if process.poll() is None:
                process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, forward)
    failed = wait(running)
    for reader in readers:
        reader.join(timeout=GRACE)
    if failed is None:
        return 0
    code = running[failed].returncode
    if code == exit_codes.STOPPED:
        print('local_pod: stopped early and saved; the same command goes on', file=sys.stderr)
        return code
    how = f'was killed by signal {-code}' if code < 0 else f'ended with code {code}'
    print(f'local_pod: process {failed} of {processes} {how}; its last words:', file=sys.stderr)
    print(''.join(words[failed][-15:]), file=sys.stderr, end='')
    return code if code > 0 else 128 - code


def wait(running: Sequence[subprocess.Popen[str]]) -> int | None:
    """Waits for all; the number of the process that failed first, None if none did."""
    failed, deadline = None, 0.0
    while any(process.poll() is None for process in running):
        for number, process in enumerate(running):
            if failed is None and process.poll():
                failed, deadline = number, time.monotonic() + GRACE
                for other in running:
                    if other.poll() is None:
                        other.terminate()
        if failed is not None and time.monotonic() > deadline:
            for process in running:
                if process.poll() is None:
                    os.killpg(process.pid, signal.SIGKILL)
        time.sleep(0.05)
    if failed is None:
        failed = next((n for n, process in enumerate(running) if process.returncode), None)
    return failed


def main() -> int:
    """Parses the command line and runs the pod."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or '').splitlines()[0], allow_abbrev=False
    )
    parser.add_argument('--processes', type=int, default=2, help='how many JAX processes')
    parser.add_argument(
        '--devices_per_process', type=int, default=1, help='fake CPU devices of each'
    )
    parser.add_argument('command', nargs=argparse.REMAINDER, help='after --: what each one runs')
    arguments = parser.parse_args()
    command = arguments.command[1:] if arguments.command[:1] == ['--'] else arguments.command
    if not command or arguments.processes < 1 or arguments.devices_per_process < 1:
        parser.error('give at least one process, one device each, and a command after --')
    if shutil.which(command[0]) is None:
        parser.error(f'there is no program {command[0]}')
    return run(command, arguments.processes, arguments.devices_per_process)


if __name__ == '__main__':
    sys.exit(main())
