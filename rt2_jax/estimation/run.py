"""The whole run: days, chip-hours, checkpoints, what a crash costs, and what each host must give.

All of it follows from the roofline, which a run does not beat: read times as "not shorter than", and
rates of data as "at most".
"""

from collections.abc import Mapping
import dataclasses
import math
from typing import Any

import numpy as np

from rt2_jax.data import cards, files, remote_files, schedules
from rt2_jax.data.data_config import count_pictures
from rt2_jax.data.index import index_build
from rt2_jax.data.readers import robot_format
from rt2_jax.estimation import job as job_lib

# Highest resident memory while restoring, in multiples of what a process's devices hold (BUILD_NOTES.md,
# "Several processes": 2.70 with 8 processes, the largest that was measured). Devices were CPUs, so one
# of these multiples is the state itself, which a TPU has in its own memory.
HOST_MEMORY_FACTOR = 2.7
# A process that has imported everything, without data (an assumption, with room for libtpu).
PROCESS_BYTES = 2 * 10**9


@dataclasses.dataclass(frozen=True)
class Assumptions:
    """What the compiler cannot say.

    Attributes:
        price_per_chip_hour: in any currency; None leaves out costs.
        storage_gb_per_second: 1e9 bytes/s that one host reads from or writes to the workdir's storage.
        example_bytes: read for one frame of a set whose index is not here.
    """

    price_per_chip_hour: float | None = None
    storage_gb_per_second: float = 1.0
    example_bytes: int = 50_000


@dataclasses.dataclass(frozen=True)
class Hosts:
    """The machines of a job.

    Attributes:
        count: how many.
        devices: JAX devices of each.
        chips: in all.
        ram: bytes of memory of each, 0 if unknown.
    """

    count: int
    devices: int
    chips: int
    ram: int


def whole_run(
    config: Any, job: job_lib.Job, fields: Mapping[str, Any], hosts: Hosts, assumptions: Assumptions
) -> dict[str, Any]:
    """The `run` field of the report.

    Args:
        config: of the run.
        job: of mode 'train'.
        fields: of the report: step_seconds, step_seconds_without_overlap, compile_seconds.
        hosts: the machines.
        assumptions: what the compiler cannot say.
    """
    steps, step_seconds = int(config.total_steps), fields['step_seconds']
    checkpoint = _checkpoint(config, job, step_seconds, hosts, assumptions)
    return {
        'steps': steps,
        'at_best': _price(steps * step_seconds, hosts.chips, assumptions),
        'without_overlap': _price(
            steps * fields['step_seconds_without_overlap'], hosts.chips, assumptions
        ),
        'checkpoint': checkpoint,
        'crash': _crash(
            config, step_seconds, fields['compile_seconds'], checkpoint, hosts, assumptions
        ),
        'input': _input(config, step_seconds, hosts, assumptions),
        'host': _host(config, job, hosts),
        'assumptions': dataclasses.asdict(assumptions),
    }


def _price(seconds: float, chips: int, assumptions: Assumptions) -> dict[str, float | None]:
    hours = seconds / 3600
    price = assumptions.price_per_chip_hour
    return {
        'days': hours / 24,
        'chip_hours': hours * chips,
        'cost': None if price is None else hours * chips * price,
    }


def _checkpoint(
    config: Any, job: job_lib.Job, step_seconds: float, hosts: Hosts, assumptions: Assumptions
) -> dict[str, float]:
    """Sizes are before Orbax's compression, which saves 7 to 8 % of random float32 numbers."""
    size = job_lib.total_bytes(job.saved)
    bandwidth = assumptions.storage_gb_per_second * 1e9
    saves = math.ceil(config.total_steps / config.checkpoint_every)
    return {
        'bytes': size,
        'every_steps': int(config.checkpoint_every),
        'every_seconds': config.checkpoint_every * step_seconds,
        'kept': min(int(config.keep), saves),
        'kept_bytes': min(int(config.keep), saves) * size,
        'write_seconds': size / hosts.count / bandwidth,
        'read_seconds': _share(job, hosts) / bandwidth,
    }


def _crash(
    config: Any,
    step_seconds: float,
    compile_seconds: float,
    checkpoint: Mapping[str, float],
    hosts: Hosts,
    assumptions: Assumptions,
) -> dict[str, float | None]:
    """On average a crash comes halfway between two checkpoints."""
    steps = min(config.checkpoint_every, config.total_steps) / 2
    restart = compile_seconds + checkpoint['read_seconds']
    lost = _price(steps * step_seconds + restart, hosts.chips, assumptions)
    return {
        'steps': steps,
        'steps_seconds': steps * step_seconds,
        'restart_seconds': restart,
        'chip_hours': lost['chip_hours'],
        'cost': lost['cost'],
    }


def _input(
    config: Any, step_seconds: float, hosts: Hosts, assumptions: Assumptions
) -> dict[str, Any]:
    sets = data_sets(config, assumptions.example_bytes)
    mean = sum(entry['share'] * entry['bytes_per_example'] for entry in sets.values())
    rate = config.batch_size / step_seconds
    return {
        'examples_per_second': rate,
        'examples_per_second_per_host': rate / hosts.count,
        'bytes_per_example': mean,
        'bytes_per_second_per_host': rate * mean / hosts.count,
        'sets': sets,
    }


def _host(config: Any, job: job_lib.Job, hosts: Hosts) -> dict[str, int]:
    """Memory of one host: what saving and restoring take, batches read ahead, the process itself."""
    share = _share(job, hosts)
    data = config.data
    rows = math.ceil(config.batch_size / hosts.count)
    row = count_pictures(data) * data.image_size**2 * 3 + 4 * (
        data.prompt_length + data.target_length + 3
    )
    # Those in the queue, the one that waits for room in it, and the one that the step uses.
    batches = (data.read_ahead + 2) * rows * row
    return {
        'hosts': hosts.count,
        'state_bytes': share,
        'state_peak_bytes': int(HOST_MEMORY_FACTOR * share),
        'batches_bytes': batches,
        'process_bytes': PROCESS_BYTES,
        'memory_bytes': int(HOST_MEMORY_FACTOR * share) + batches + PROCESS_BYTES,
        'ram_bytes': hosts.ram,
    }


def _share(job: job_lib.Job, hosts: Hosts) -> int:
    """Bytes of the state that the devices of one host hold."""
    held = hosts.devices * job_lib.bytes_per_device(job.saved)
    return min(held, job_lib.total_bytes(job.saved))


def data_sets(config: Any, example_bytes: int) -> dict[str, dict[str, Any]]:
    """By set: its mean share of the examples over the run, bytes read for one, and how that is known.

    Args:
        config: of the run.
        example_bytes: for a frame of a set whose index is not here.
    """
    data = config.data
    steps = np.linspace(0, config.total_steps, 101)
    share = schedules.Schedule.from_config(data.robot_share.to_dict()).at(steps)
    shares: dict[str, float] = {}
    for sets, of_batch in ((data.robot, share), (data.web, 1 - share)):
        weights = {name: _weight(name, settings, data, steps) for name, settings in sets.items()}
        total = sum(weights.values())
        shares |= {name: float(np.mean(of_batch * w / total)) for name, w in weights.items()}
    sizes = {
        **{name: _robot_bytes(s, data, example_bytes) for name, s in data.robot.items()},
        **{name: _web_bytes(s, example_bytes) for name, s in data.web.items()},
    }
    return {
        name: {'share': shares[name], 'bytes_per_example': size, 'known_from': origin}
        for name, (size, origin) in sizes.items()
    }


def _weight(name: str, settings: Mapping[str, Any], data: Any, steps: np.ndarray) -> np.ndarray:
    weight = schedules.Schedule.from_config(settings['weight']).at(steps)
    if name in data.robot and data.get('weights_per', 'source') == 'step':
        pictures = _picture_bytes(settings, data)
        return weight if pictures is None else weight * len(pictures)
    return weight


def _robot_bytes(settings: Any, data: Any, example_bytes: int) -> tuple[float, str]:
    pictures = _picture_bytes(settings, data)
    if pictures is None:
        return count_pictures(data) * example_bytes, 'assumed'
    card, names = cards.find(settings['card']), settings.get('cameras') or data.get('cameras', ())
    shown = [card.camera(name) for name in names] or [settings.get('camera', 0)]
    return data.frames * float(np.mean(pictures[:, shown].sum(1))), 'index'


def _web_bytes(settings: Mapping[str, Any], example_bytes: int) -> tuple[float, str]:
    if settings.get('kind', 'small') == 'small':
        return 0.0, 'made up as it is read'
    return example_bytes, 'assumed'


def _picture_bytes(settings: Mapping[str, Any], data: Any) -> np.ndarray | None:
    """Bytes of each picture [steps, cameras] of a robot set that is indexed on this machine."""
    location, directory = settings.get('location'), settings['directory']
    card = cards.known(settings['card'])
    if card is None or remote_files.is_remote(location or directory):
        return None
    if not files.path(directory).exists():
        return None
    if not settings.get('state', data.get('state', '')):
        card = card.without_state()
    dataset = robot_format.opened(directory, card, settings.get('split', 'train'))
    folder = index_build.place(dataset, location)
    lengths = folder / 'image_length.npy'
    return np.load(lengths, mmap_mode='r') if lengths.exists() else None
