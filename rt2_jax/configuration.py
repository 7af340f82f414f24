"""Training configs: defaults, the --config flag, checks, JSON, and comparison on resume."""

from collections.abc import Iterator, Sequence
import importlib.util
import json
from typing import Any

from absl import flags
from etils import epath
import ml_collections
from ml_collections import config_flags

from rt2_jax import command, records
from rt2_jax.errors import UserError
from rt2_jax.nearest import closest, nearest

# What may differ when a run is resumed: nothing here changes what a step computes, but for
# `total_steps`, which lengthens or shortens the run (and moves the end of a cosine schedule).
MAY_CHANGE = (
    'total_steps',
    'log_every',
    'log_examples',
    'checkpoint_every',
    'keep',
    'compile_cache',
    'wandb_project',
    'profile',
    'mesh',
    'data.threads',
    'data.read_ahead',
    'data.on_corrupt',
    'validation',
)


class ConfigError(UserError, ValueError):
    """A config doesn't exist, or has no such field or value."""


def defaults() -> ml_collections.ConfigDict:
    """Every field of a training config but its `model`, with its default.

    Unlocked: a config file sets what differs, adds its `model`, and locks it.
    """
    return ml_collections.ConfigDict(
        dict(
            seed=0,
            total_steps=1_000,
            batch_size=64,
            # What one CPU multiplies, or 'bfloat16' where it can; other devices use the model's dtype.
            cpu_products='float32',
            accumulate=1,  # parts that a batch is computed in, one after another
            log_every=50,
            log_examples=False,  # which examples were in each batch, into the workdir's examples folder
            checkpoint_every=1_000,
            keep=2,  # checkpoints
            tokenizer='',  # a SentencePiece model or a tokenizer.json; '' for the project's own
            embodiment='tabletop',  # card of the robot that the policy acts for: its name or FILE.json
            action_smoothing=0.0,  # bins; see Sampler.smoothing
            one_pass=False,  # whether the numbers of an action are decided at once; see decoding/grammar.py
            pointer='',  # the run that says where things are to one of model.points; see policy/pointer.py
            init_from='',  # checkpoint directories by comma, see checkpoints/init_from.py
            init_parts=(),  # top-level parts of the model that are taken from init_from; all if empty
            data=dict(
                image_size=96,
                frames=1,  # of an example, oldest first
                frame_stride=1,  # steps between two of them
                cameras=(),  # names of those shown at each; one, by its set's `camera`, if empty
                state='',  # ranges of the robot's state in prompts: 'card' or 'q01-q99'; '' for none
                action_frames='last',  # of which of them a target holds the actions: 'last' or 'all'
                prompt_length=24,
                target_length=16,
                threads=2,
                read_ahead=3,
                on_corrupt='raise',
                robot=dict(),
                web=dict(),
                weights_per='source',  # of which a robot set's weight is: the 'source', or each 'step'
                augment=dict(  # see data/augmentation.py; these values change nothing
                    scale=(1.0, 1.0),
                    ratio=(1.0, 1.0),
                    shift=(0.0, 0.0),
                    brightness=0.0,
                    contrast=(1.0, 1.0),
                    saturation=(1.0, 1.0),
                    hue=0.0,
                ),
                # The robot's share of a batch: constant (start), linear or cosine (start to end
                # over begin..finish) or steps. A set's weight may be such a schedule, too.
                robot_share=dict(
                    kind='constant',
                    start=0.65,
                    end=0.5,
                    begin=0,
                    finish=1,
                    boundaries=(),
                    shares=(),
                ),
            ),
            # Loss on held-out data: the `holdout` of data.robot.NAME and data.web.NAME (a share or
            # number of its episodes or records), and sets of its own.
            validation=dict(every=0, batches=8, robot=dict(), web=dict()),
            optimizer=dict(
                name='adamw',
                lr=1e-3,
                schedule='cosine',
                warmup=100,
                end_fraction=0.02,
                clip=1.0,
                weight_decay=0.02,
                b1=0.9,
                b2=0.95,
                eps=1e-8,
                decay_rate=0.8,
                scale_by_parameter=True,
                frozen=(),
                part_lr=dict(),
            ),
            # Low-rank adapters, which learn in place of everything else; none if the rank is 0.
            adapters=dict(rank=0, alpha=16.0, patterns=('(query|value)/kernel$',)),
            mesh=dict(data=-1, fsdp=1, tensor=1),  # numbers of devices, -1 the rest
            compile_cache='',  # a directory, 'none', or '' for the workdir's
            profile=0,  # the first of five steps that are traced into the workdir's profile folder
            wandb_project='',
        )
    )


def paper(total_steps: int, batch_size: int, lr: float) -> ml_collections.ConfigDict:
    """Settings common to RT-2's runs (arXiv 2307.15818, appendix E); a config adds data, model, mesh.

    Left open by the paper, and chosen here: 224 pixels, 64 tokens of prompt and of target, Adafactor
    at a constant rate after 1,000 steps, as T5 is fine-tuned (arXiv 1910.10683).
    """
    config = defaults()
    config.update(total_steps=total_steps, batch_size=batch_size, checkpoint_every=2_000)
    config.data.update(image_size=224, prompt_length=64, target_length=64, threads=32, read_ahead=4)
    config.optimizer.update(
        name='adafactor', lr=lr, schedule='constant', warmup=1_000, weight_decay=0.0
    )
    return config


def from_weights(init_from: str, tokenizer: str, lr: float) -> ml_collections.ConfigDict:
    """Tabletop co-fine-tuning from open weights, vision tower frozen; a config adds the model."""
    config = defaults()
    config.update(total_steps=20_000, batch_size=128, tokenizer=tokenizer, init_from=init_from)
    config.data.update(image_size=224, prompt_length=64, target_length=64)
    config.data.robot.tabletop = dict(directory='runs/data/tabletop', card='tabletop', weight=1.0)
    config.data.web.web = dict(weight=1.0, seed=0, kinds=dict())
    config.optimizer.update(name='adafactor', lr=lr, schedule='constant', warmup=500)
    config.optimizer.frozen = ('tower',)
    config.mesh.update(data=1, fsdp=-1, tensor=1)
    return config


def load(path: epath.PathLike, argument: str = '') -> ml_collections.ConfigDict:
    """The config of a file, as --config=FILE[:ARG] loads it."""
    spec = importlib.util.spec_from_file_location(epath.Path(path).stem, path)
    assert spec and spec.loader, f'{path} is no Python file'
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*filter(None, [argument]))


def define_flag() -> flags.FlagHolder:
    """Defines --config=FILE[:ARG], whose fields are set by --config.KEY=VALUE."""
    return config_flags.DEFINE_config_file(
        'config', None, 'Config file, with an argument after a colon.', lock_config=True
    )


def leaves(config: Any, prefix: str = '') -> dict[str, Any]:
    """All fields by dotted name; a list or tuple is one field."""
    fields: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, (dict, ml_collections.ConfigDict)):
            fields |= leaves(value, f'{prefix}{key}.')
        else:
            fields[prefix + key] = list(value) if isinstance(value, tuple) else value
    return fields


def parse_flags(argv: Sequence[str]) -> list[str]:
    """A flags parser for `command.run`.

    Raises:
        ConfigError: the file of --config, or a field after it, doesn't exist.
    """
    error = _config_error(argv)
    if error:
        raise ConfigError(error)
    return command.parse_flags(argv)


def _config_error(argv: Sequence[str]) -> str:
    arguments = dict(_assignments(argv))
    value = arguments.get('config')
    if value is None:
        return ''  # absl says that the flag is required
    file = epath.Path(value.partition(':')[0])
    if not file.exists():
        present = [str(path) for path in file.parent.glob('*.py')] if file.parent.exists() else []
        return f'--config: there is no file {file}{nearest(str(file), present)}'
    try:
        config = flags.FLAGS['config'].parser.parse(value)
    except Exception as error:  # whatever the file itself raises
        # The flag's parser puts a traceback before the message; its last line says what is wrong.
        return f'--config={value}: {str(error).strip().splitlines()[-1].strip()}'
    valid = leaves(config)
    for name in arguments:
        key = name.removeprefix('config.')
        if key != name and key not in valid:
            hint = f'{closest(key, valid)}{_siblings(key, config)}'
            return f'--config.{key}: the config has no such field{hint}'
    return ''


def _siblings(key: str, config: Any) -> str:
    """What the deepest part of a config that a dotted name leads to has."""
    part, path = config, 'config'
    for name in key.split('.'):
        if not isinstance(part, ml_collections.ConfigDict) or name not in part:
            break
        part, path = part[name], f'{path}.{name}'
    if not isinstance(part, ml_collections.ConfigDict):
        return f'. {path} has no parts'
    if not part or path.startswith('config.model'):
        return f'. {path} has {", ".join(sorted(part)) or "none here"}; more are set in the config file'
    return f'. {path} has {", ".join(sorted(part))}'


def _assignments(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Flags by name with their values, whether written --name=value or --name value."""
    for position, argument in enumerate(argv[1:], start=1):
        if argument == '--':
            return
        if argument.startswith('-'):
            name, equals, value = argument.lstrip('-').partition('=')
            following = argv[position + 1] if position + 1 < len(argv) else ''
            yield name, value if equals else following


# Fields below these are checked where they are used.
FREE = (
    'model',
    'data.robot',
    'data.web',
    'validation.robot',
    'validation.web',
    'optimizer.part_lr',
)

# The least that numbers may be.
_LEAST = {
    'total_steps': 1,
    'batch_size': 1,
    'accumulate': 1,
    'log_every': 1,
    'checkpoint_every': 1,
    'keep': 1,
    'seed': 0,
    'profile': 0,
    'data.image_size': 1,
    'data.frames': 1,
    'data.frame_stride': 1,
    'data.prompt_length': 1,
    'data.target_length': 1,
    'data.threads': 1,
    'data.read_ahead': 1,
    'validation.every': 0,
    'validation.batches': 1,
    'optimizer.lr': 0,
    'optimizer.warmup': 0,
    'optimizer.end_fraction': 0,
    'optimizer.clip': 0,
    'optimizer.weight_decay': 0,
    'adapters.rank': 0,
}
_LEAST_OF_MODELS = {'width': 1, 'heads': 1, 'head_dim': 1, 'mlp': 1, 'patch': 1, 'depth': 0}


def check(config: Any) -> None:
    """Refuses a config with an unknown field, or a number that is too small.

    Raises:
        ConfigError: names the field and the nearest valid one, or the least value.
    """
    values, known = leaves(config), leaves(defaults())
    for name in unknown_fields(config):
        raise ConfigError(f'config.{name}: there is no such field{closest(name, known)}')
    for name in _sections(defaults()):
        if name in values:
            raise ConfigError(
                f'config.{name} is {values[name]!r}; it has fields of its own, dict(...)'
            )
    for name, value in values.items():
        if name in known:
            _check_kind(name, value, known[name])
        least = _LEAST.get(name)
        if name.startswith('model.'):
            least = _LEAST_OF_MODELS.get(name.rpartition('.')[2])
        if least is not None and _is_number(value) and not value >= least:
            raise ConfigError(f'config.{name} is {value}; it must be at least {least}')


def unknown_fields(config: Any) -> list[str]:
    """Dotted names of unknown fields, but for those below `FREE`."""
    known = {*leaves(defaults()), *_sections(defaults())}
    is_free = lambda name: any(name == part or name.startswith(f'{part}.') for part in FREE)
    names = [*leaves(config), *_sections(config)]
    return [name for name in names if name not in known and not is_free(name)]


def _sections(config: Any, prefix: str = '') -> list[str]:
    """Dotted names of all parts that have fields, or could have."""
    names = []
    for key, value in config.items():
        if isinstance(value, (dict, ml_collections.ConfigDict)):
            names += [prefix + key, *_sections(value, f'{prefix}{key}.')]
    return names


def _check_kind(name: str, value: Any, default: Any) -> None:
    """ConfigError where a number or a list is needed and something else is there."""
    if _is_number(default) and not _is_number(value):
        raise ConfigError(f'config.{name} is {value!r}; a number is needed')
    several_numbers = isinstance(default, list) and default and all(map(_is_number, default))
    if several_numbers and not (isinstance(value, list) and len(value) == len(default)):
        raise ConfigError(f'config.{name} is {value!r}; {len(default)} numbers are needed')


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def from_record(
    record: Any, where: epath.PathLike, error: type[UserError], version: str = ''
) -> ml_collections.ConfigDict:
    """The locked config of a JSON record, with the defaults of fields that its version did not have.

    Args:
        record: the JSON.
        where: its file.
        error: class of the error to raise.
        version: of rt2_jax that wrote it, if known.

    Raises:
        UserError: of the class `error`; it lacks a field that every version wrote, or has one of a
            newer version.
    """
    records.check_fields(record, ('model', 'data', 'embodiment'), record, where, error, version)
    records.refuse_unknown(unknown_fields(record), where, error, version)
    return complete(record)


def complete(record: dict[str, Any]) -> ml_collections.ConfigDict:
    """The locked config of a JSON record, with the defaults of missing fields."""

    def merge(default: Any, value: Any) -> Any:
        if not (isinstance(default, dict) and isinstance(value, dict)):
            return value
        names = [*value, *(name for name in default if name not in value)]
        return {
            name: merge(default.get(name), value[name]) if name in value else default[name]
            for name in names
        }

    return from_json(json.dumps(merge(json.loads(to_json(defaults())), record)))


def to_json(config: Any) -> str:
    """The config as JSON text, fields in their order."""
    return json.dumps(config.to_dict() if hasattr(config, 'to_dict') else config, indent=2)


def from_json(text: str) -> ml_collections.ConfigDict:
    """The locked config that `to_json` wrote."""
    return ml_collections.ConfigDict(json.loads(text)).lock()


def differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The values of fields that differ, by dotted name; None where a config has no such field.

    A field that is younger than the old config counts as its default.
    """
    old, new = leaves(json.loads(to_json(old))), leaves(json.loads(to_json(new)))
    known = leaves(json.loads(to_json(defaults())))
    old = {key: value for key, value in known.items() if key in new} | old
    pairs = {key: (old.get(key), new.get(key)) for key in sorted({*old, *new})}
    return {key: (before, after) for key, (before, after) in pairs.items() if before != after}


def differing(old: Any, new: Any) -> list[str]:
    """One line a field that differs and is not in `MAY_CHANGE`: 'seed: was 1, is 2'."""
    return [
        f'{key}: was {before!r}, is {after!r}'
        for key, (before, after) in differences(old, new).items()
        if not any(key == name or key.startswith(name + '.') for name in MAY_CHANGE)
    ]
