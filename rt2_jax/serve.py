"""Serves a policy to robots: openpi's websocket protocol and OpenVLA's POST /act on one port.

    python -m rt2_jax.serve --workdir=runs/cofinetune --port=8000

Robots that run openpi's client connect to ws://HOST:8000; OpenVLA's POST to http://HOST:8000/act;
both work with `python -m rt2_jax.evaluate --server=URL`. Actions are in the robot's own numbers, as
its data have them, unless --convention or the client's ?convention=NAME says otherwise:
rt2_jax/serving/README.md has that, the keys, the limits and the errors. GET /healthz answers 200 once
all that will be used is compiled. The key of --api_key_file, or of the environment variable
RT2_API_KEY, is asked of everybody.

SIGTERM: what was accepted is answered, then the process exits with 0.
"""

from __future__ import annotations

import importlib.util
import socket
from typing import Any

from absl import app, flags
import jax
from jax.sharding import Mesh

from rt2_jax import command
from rt2_jax.checkpoints import loading
from rt2_jax.nearest import check
from rt2_jax.parallel import mesh as mesh_lib
from rt2_jax.policy import Policy
from rt2_jax.policy.conventions import CONVENTIONS

FLAGS = flags.FLAGS
_EXTRA = ('uvicorn', 'starlette', 'websockets', 'msgpack', 'prometheus_client')


def batch_sizes(largest: int) -> tuple[int, ...]:
    """The sizes that batches are filled up to: powers of two, and the largest.

    >>> batch_sizes(12)
    (1, 2, 4, 8, 12)
    """
    return (*(2**n for n in range(largest.bit_length()) if 2**n < largest), largest)


def check_address(host: str, port: int) -> None:
    """Raises OSError where nobody can listen, before the weights are read."""
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
    """The policy of --workdir; UsageError where there is none."""
    cache = loading.locate(FLAGS.workdir) / 'compile_cache'
    if cache.exists():
        jax.config.update('jax_compilation_cache_dir', str(cache))
        jax.config.update('jax_persistent_cache_min_compile_time_secs', 0.5)
    settings = {} if FLAGS.plan is None else {'plan': FLAGS.plan}
    mesh = local_mesh()
    rows = mesh.shape['data'] * mesh.shape['fsdp'] if mesh else 1
    if FLAGS.weights != 'stored':
        settings['weights'] = FLAGS.weights
    try:
        return Policy.from_checkpoint(
            FLAGS.workdir,
            FLAGS.step,
            source=FLAGS.source,
            batch_sizes=[rows * size for size in batch_sizes(-(-FLAGS.largest_batch // rows))],
            mesh=mesh,
            long_prompts='clip' if FLAGS.clip_prompts else 'raise',
            **settings,
        )
    except ValueError as error:  # CheckpointError is one
        raise app.UsageError(f'--workdir={FLAGS.workdir}: {error}') from error


def local_mesh() -> Mesh | None:
    """The devices of this machine as --mesh arranges them; None for one device."""
    if not FLAGS.mesh:
        return None
    try:
        sizes = {axis: int(size) for axis, size in (part.split('=') for part in FLAGS.mesh)}
        return mesh_lib.make_mesh(sizes, jax.local_devices())
    except ValueError as error:
        raise app.UsageError(
            f'--mesh={",".join(FLAGS.mesh)} (such as tensor=4): {error}'
        ) from error


def make_server(policy: Policy) -> Any:
    """The server as the flags have it."""
    # Only now, because it needs the extra `serve`.
    from rt2_jax.serving import access, limits, server, service

    try:
        made = service.Service(
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
            ),
        )
        return server.Server(
            made, host=FLAGS.host, port=FLAGS.port, api_key=access.read_key(FLAGS.api_key_file)
        )
    except ValueError as error:
        raise app.UsageError(str(error)) from error


def define_flags() -> None:
    """Defines the flags of the command; importing this file defines none."""
    flags.DEFINE_string('workdir', None, "Checkpoint directory, or 'package:NAME'.")
    flags.DEFINE_integer('step', None, 'Which step; the latest by default.')
    flags.DEFINE_string('source', '', 'Robot data set in whose action space to act.')
    flags.DEFINE_enum('weights', 'stored', ['stored', 'bfloat16', 'int8'], 'How weights are kept.')
    flags.DEFINE_list('mesh', [], "Split over this machine's devices, 'tensor=4'; else one device.")
    flags.DEFINE_bool('plan', None, 'Plan before each action; by default as it was trained.')
    flags.DEFINE_float('temperature', 0.0, '0 takes the likeliest action.', lower_bound=0)
    flags.DEFINE_string(
        'convention',
        None,
        "In whose numbers actions go out: 'robot' (default), position, internal.",
    )
    flags.DEFINE_bool('clip_prompts', False, 'Cut prompts that are too long instead of refusing.')
    flags.DEFINE_string('host', '127.0.0.1', '0.0.0.0 listens to other machines as well.')
    flags.DEFINE_integer('port', 8000, 'Where to listen.', 0, 65535)
    flags.DEFINE_string('api_key_file', None, 'File that holds the key that clients must bring.')
    flags.DEFINE_integer('largest_batch', 16, 'Most requests computed together.', lower_bound=1)
    flags.DEFINE_float('longest_wait_ms', 0.0, 'That a batch waits to fill.', lower_bound=0)
    flags.DEFINE_integer('queue', 256, 'Most requests accepted and not answered.', lower_bound=1)
    flags.DEFINE_float('deadline_ms', 10_000.0, 'After which none is computed.', lower_bound=1)
    flags.DEFINE_integer('threads', 2, 'That decode and resize pictures.', lower_bound=1)
    flags.DEFINE_integer('connections', 1024, 'Most websockets.', lower_bound=1)
    flags.DEFINE_float('message_mib', 16.0, 'Largest message, MiB.', lower_bound=0.01)
    flags.DEFINE_integer('image_side', 2048, 'Largest height or width, pixels.', lower_bound=1)
    flags.DEFINE_integer('text_characters', 2000, 'Longest instruction.', lower_bound=1)
    flags.DEFINE_float('seconds_to_send', 10.0, 'Headers, or a message.', lower_bound=0.1)
    flags.mark_flag_as_required('workdir')


def main(argv: list[str]) -> None:
    if len(argv) > 1:
        raise app.UsageError(f'Unknown arguments: {argv[1:]}')
    if missing := [name for name in _EXTRA if importlib.util.find_spec(name) is None]:
        raise app.UsageError(f"{', '.join(missing)} missing: pip install 'rt2_jax[serve]'")
    check('convention', FLAGS.convention or 'robot', CONVENTIONS)
    check_address(FLAGS.host, FLAGS.port)
    make_server(load_policy()).serve_on()


if __name__ == '__main__':
    define_flags()
    command.run('serve', main)
