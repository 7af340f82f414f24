"""A Slurm cluster of two nodes on this machine: real daemons on loopback, for tests and by hand.

    python tests/launch/slurm_cluster.py     # prints how to reach it; Ctrl-C ends it

Needs root and Debian's slurm-wlm and munge. While it runs, /etc/hosts has the nodes' names, which
JAX looks up; nothing else outside its folder changes. Each node has two GPUs, which are plain files.
"""

from collections.abc import Iterator
import contextlib
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time

PROGRAMS = ('slurmctld', 'slurmd', 'munged', 'sbatch')
INSTALL = 'as root: apt-get install slurm-wlm munge'
HOSTS = pathlib.Path('/etc/hosts')
NODES = ('rt2n1', 'rt2n2')

CONF = """\
ClusterName=rt2
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# Credentials live for seconds, for a requeued job waits until its last one is over.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/pgid
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MpiDefault=none
SlurmdParameters=config_overrides
GresTypes=gpu
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SchedulerParameters=batch_sched_delay=0,sched_interval=2
KillWait=5
ReturnToService=2
PartitionName=main Nodes={nodes} Default=YES MaxTime=INFINITE State=UP
"""
NODE = """\
NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=8 RealMemory=8000 Gres=gpu:2
"""


def why_not() -> str:
    """Why no cluster can run here; '' if one can."""
    missing = [name for name in PROGRAMS if not shutil.which(name)]
    if missing or os.geteuid() != 0:
        return f'needs root and {", ".join(missing or PROGRAMS)} ({INSTALL})'
    return ''


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        return listener.getsockname()[1]


def configure(folder: pathlib.Path) -> None:
    """Writes slurm.conf, gres.conf and the key of munge."""
    host = socket.gethostname()
    conf = CONF.format(host=host, controller_port=free_port(), folder=folder, nodes=','.join(NODES))
    for name in NODES:
        conf += NODE.format(name=name, host=host, port=free_port())
    (folder / 'slurm.conf').write_text(conf)
    gpus = [folder / f'gpu{number}' for number in range(2)]
    for gpu in gpus:
        gpu.touch()
    (folder / 'gres.conf').write_text(f'Name=gpu File={folder}/gpu[0-1]\n')
    (folder / 'state').mkdir()
    key = folder / 'munge.key'
    key.write_bytes(os.urandom(1024))
    key.chmod(0o600)


@contextlib.contextmanager
def host_names() -> Iterator[None]:
    """The nodes' names as this machine, in /etc/hosts, while the block runs."""
    line = f'127.0.0.1 {" ".join(NODES)} # tests/launch/slurm_cluster.py\n'
    # Written in place: in a container, the file is mounted and can't be replaced.
    HOSTS.write_text(HOSTS.read_text() + line)
    try:
        yield
    finally:
        HOSTS.write_text(HOSTS.read_text().replace(line, ''))


@contextlib.contextmanager
def daemons(folder: pathlib.Path) -> Iterator[None]:
    """munged, slurmctld and a slurmd for each node, until the end of the block."""
    conf = ['-D', '-c', '-f', str(folder / 'slurm.conf')]
    commands = {
        'munged': [
            'munged', '--foreground', '--force', f'--key-file={folder}/munge.key',
            f'--socket={folder}/munge.socket', f'--pid-file={folder}/munged.pid',
            f'--seed-file={folder}/munged.seed', f'--log-file={folder}/munged.log', '--num-threads=2',
        ],
        'slurmctld': ['slurmctld', *conf],
    } | {name: ['slurmd', '-N', name, *conf] for name in NODES}  # fmt: skip
    running = []
    try:
        for name, command in commands.items():
            with (folder / f'{name}.out').open('w') as log:
                running.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(0.5)
        yield
    finally:
        for process in reversed(running):
            process.terminate()
        for process in running:
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextlib.contextmanager
def cluster() -> Iterator[dict[str, str]]:
    """Runs the cluster; gives the variables by which Slurm's commands reach it.

    Raises:
        RuntimeError: its nodes are not idle after 30 s; says what the daemons printed.
    """
    with (
        tempfile.TemporaryDirectory(prefix='slurm_cluster') as name,
        contextlib.ExitStack() as stack,
    ):
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        configure(folder)
        stack.enter_context(host_names())
        stack.enter_context(daemons(folder))
        variables = {'SLURM_CONF': str(folder / 'slurm.conf')}
        environment = os.environ | variables
        deadline = time.monotonic() + 30
        while True:
            states = subprocess.run(
                ['sinfo', '--noheader', '--format=%D %T'],
                env=environment, capture_output=True, text=True,
            )  # fmt: skip
            if states.stdout.strip() == f'{len(NODES)} idle':
                break
            if time.monotonic() > deadline:
                words = [f'{log.name}:\n{log.read_text()[-1000:]}' for log in folder.glob('*.out')]
                raise RuntimeError('\n'.join([states.stdout + states.stderr, *words]))
            time.sleep(0.2)
        try:
            yield variables
        finally:
            # What the daemons leave behind would run on without them.
            for more in (['--signal=KILL', '--full'], []):
                subprocess.run(['scancel', '--user=root', *more], env=environment)
            for _ in range(150):
                queue = subprocess.run(
                    ['squeue', '--noheader'], env=environment, capture_output=True, text=True
                )
                if not queue.stdout.strip():
                    break
                time.sleep(0.2)


def main() -> None:
    reason = why_not()
    if reason:
        raise SystemExit(f'slurm_cluster: {reason}')
    with cluster() as variables:
        for name, value in variables.items():
            print(f'export {name}={value}', flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            signal.signal(signal.SIGTERM, signal.default_int_handler)
            signal.pause()


if __name__ == '__main__':
    main()
