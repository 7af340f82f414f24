"""Serves a policy to robots: openpi's websocket protocol and OpenVLA's POST /act on one port.

    python -m rt2_jax.serve --workdir=runs/cofinetune --port=8000

Robots that run openpi's client connect to ws://HOST:8000; OpenVLA's POST to http://HOST:8000/act;
both work with `python -m rt2_jax.evaluate --server=URL`. Actions are in the robot's own numbers, as
its data have them, unless --convention or the client's ?convention=NAME says otherwise:
rt2_jax/serving/README.md has that, the keys, the limits and the errors. GET /healthz answers 200 once
all that will be used is compiled. The key of --api_key_file, or of the environment variable
RT2_API_KEY, is asked of everybody.

--demo adds a page to play with at http://HOST:PORT/demo: a person types, the robot acts on the simulated
tabletop.

SIGTERM: what was accepted is answered, then the process exits with 0.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib.util
import socket
from typing import TYPE_CHECKING

from absl import app, flags, logging

from rt2_jax import command
from rt2_jax.errors import MissingPackage
from rt2_jax.nearest import check
from rt2_jax.policy import Policy, from_flags
from rt2_jax.policy.conventions import CONVENTIONS
from rt2_jax.policy.from_flags import local_mesh
from rt2_jax.policy.runner import batch_divisor

if TYPE_CHECKING:  # needs the extra `serve`
    from rt2_jax.serving.demo import Demo
    from rt2_jax.serving.server import Server

FLAGS = flags.FLAGS
_ALTERNATIVES = 3  # likeliest values of each number, shown on the page
_EXTRA = ('uvicorn', 'starlette', 'websockets', 'msgpack', 'prometheus_client')


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes that batches are filled up to: powers of two, and the largest.

    >>> batch_sizes(12)
    (1, 2, 4, 8, 12)
    """
    return (*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest)


def check_address(host: str, port: int) -> None:
    """OSError where the server cannot listen; called before the weights are read."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise OSError(
            f'cannot listen on --host={host} --port={port}: {reason}; take another, --port=0 is any'
        ) from error


def load_policy() -> Policy:
    """The policy of --workdir."""
    mesh = local_mesh(FLAGS.mesh)
    rows = batch_divisor(mesh)
    return from_flags.load_policy(
        FLAGS.workdir,
        FLAGS.step,
        source=FLAGS.source,
        batch_sizes=[rows * size for size in batch_sizes(-(-FLAGS.largest_batch // rows))],
        mesh=mesh,
        long_prompts='clip' if FLAGS.clip_prompts else 'raise',
        **{name: FLAGS[name].value for name in from_flags.DECISIONS},
        weights=FLAGS.weights,
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within it only warnings are logged: Orbax logs every step of its own."""
    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.WARNING)
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def make_server(policy: Policy) -> Server:
    """The server as the flags have it."""
    # Only now, because it needs the extra `serve`.
    from rt2_jax.serving import limits, server, service

    try:
        shared_policy = service.Service(
            policy,
            limits=limits.Limits(
                message_bytes=int(FLAGS.message_mib * 2**20),
                image_side=FLAGS.image_side,
                text_characters=FLAGS.text_characters,
                seconds_to_send=FLAGS.seconds_to_send,
                connections=FLAGS.connections,
            ),
            settings=service.Settings(
                longest_wait=FLAGS.longest_wait_ms / 1000,
                queue=FLAGS.queue,
                deadline=FLAGS.deadline_ms / 1000,
                threads=FLAGS.threads,
                temperature=FLAGS.temperature,
                convention=FLAGS.convention,
                alternatives=_ALTERNATIVES if FLAGS.demo else 0,
            ),
        )
        api_key = limits.read_key(FLAGS.api_key_file)
        demo = demo_class()(shared_policy) if FLAGS.demo else None
    except ValueError as error:
        raise app.UsageError(str(error)) from error
    return server.Server(
        shared_policy, host=FLAGS.host, port=FLAGS.port, api_key=api_key, demo=demo
    )


def demo_class() -> type[Demo]:
    """The page to play with, which needs the simulator and has no key."""
    try:
        from rt2_jax.serving.demo import Demo
        from rt2_jax.serving.limits import API_KEY_VARIABLE, read_key
    except ImportError as error:
        raise MissingPackage('--demo', str(error.name), 'sim') from error
    if read_key(FLAGS.api_key_file):
        raise app.UsageError(
            '--demo is a page without a key: whoever reaches it uses the policy. Leave out --demo, or '
            f'the key (--api_key_file, {API_KEY_VARIABLE}).'
        )
    return Demo


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('workdir', None, "Checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_integer('step', None, 'Which step; the latest by default.')
    flags.DEFINE_string('source', '', 'Robot data set in whose action space to act.')
    flags.DEFINE_enum('weights', 'stored', ['stored', 'bfloat16', 'int8'], 'How weights are kept.')
    flags.DEFINE_list('mesh', [], "Split over this machine's devices, 'tensor=4'; else one device.")
    from_flags.define_decision_flags()
    flags.DEFINE_float('temperature', 0.0, '0 takes the likeliest action.', lower_bound=0)
    flags.DEFINE_string(
        'convention', None, "Convention of the actions: 'robot' (default), position, internal."
    )
    flags.DEFINE_bool('clip_prompts', False, 'Cut prompts that are too long instead of refusing.')
    flags.DEFINE_string('host', '127.0.0.1', '0.0.0.0 listens to other machines as well.')
    flags.DEFINE_integer('port', 8000, 'Where to listen.', 0, 65535)
    flags.DEFINE_string('api_key_file', None, 'File that holds the key that clients must bring.')
    flags.DEFINE_integer(
        'largest_batch', 16, 'Most requests computed together; with --demo 1.', lower_bound=1
    )
    flags.DEFINE_float(
        'longest_wait_ms', 0.0, 'Most time that a batch waits to fill.', lower_bound=0
    )
    flags.DEFINE_integer('queue', 256, 'Most requests accepted and not answered.', lower_bound=1)
    flags.DEFINE_float(
        'deadline_ms', 10_000.0, 'Age at which a request is not computed any more.', lower_bound=1
    )
    flags.DEFINE_integer(
        'threads', 2, 'Number of threads that decode and resize pictures.', lower_bound=1
    )
    flags.DEFINE_integer('connections', 1024, 'Most websockets.', lower_bound=1)
    flags.DEFINE_float('message_mib', 16.0, 'Largest message, MiB.', lower_bound=0.01)
    flags.DEFINE_integer('image_side', 2048, 'Largest height or width, pixels.', lower_bound=1)
    flags.DEFINE_integer('text_characters', 2000, 'Longest instruction.', lower_bound=1)
    flags.DEFINE_float(
        'seconds_to_send', 10.0, 'Most time for headers, or for a message.', lower_bound=0.1
    )
    flags.DEFINE_bool('demo', False, 'A page to play with on the tabletop, at /demo (extra: sim).')
    flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    """Serves until SIGTERM or SIGINT."""
    if len(argv) > 1:
        raise app.UsageError(f'Unknown arguments: {argv[1:]}')
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise app.UsageError(f"{', '.join(missing)} missing: pip install 'rt2_jax[serve]'")
    check('convention', FLAGS.convention or 'robot', CONVENTIONS)
    check_address(FLAGS.host, FLAGS.port)
    if FLAGS.demo:
        demo_class()  # fails now, not when the weights are read
        FLAGS.set_default('largest_batch', 1)  # what is compiled sooner is played with sooner
    with quiet():
        policy = load_policy()
    make_server(policy).serve_until_stopped()


if __name__ == '__main__':
    define_flags()
    command.run('serve', main)
