"""Guesses which features are the cameras, the instruction, the terminate flag and the success flag."""

from __future__ import annotations

from collections.abc import Sequence
import re

import numpy as np

from rt2_jax.data.data_errors import DataSetError
from rt2_jax.data.drafting.episode_sample import Sample
from rt2_jax.data.drafting.guess import Guess, card_path, is_named, percent
from rt2_jax.data.readers import lerobot_steps, rlds_schema
from rt2_jax.data.robot_card import ActionPart
from rt2_jax.nearest import nearest

WRIST = ('wrist', 'hand', 'gripper', 'arm')
_NO_VIEW = ('depth', 'mask', 'segment', 'flow', 'normal')
# Names of instructions, the surest first.
_INSTRUCTION = (
    ('instruction',),
    ('language', 'annotation', 'caption'),
    ('task', 'goal', 'command'),
)
STATE = ('state', 'proprio')
_OFTEN = 0.5  # share of the episodes whose last step a terminate flag must mark


def full_paths(sample: Sample, paths: Sequence[str], flag: str) -> list[str]:
    """The schema's paths for those that a person named, which are the card's.

    Raises:
        DataSetError: there is no such feature.
    """
    full = [rlds_schema.full_path(path) for path in paths]
    for path in full:
        if path not in sample.schema:
            raise DataSetError(
                f'--{flag}: there is no feature {path!r}{nearest(path, sample.schema)}'
            )
    return full


def images(sample: Sample, named: Sequence[str] = ()) -> tuple[tuple[str, ...], Guess]:
    """The card's `images`: views from outside first, then the wrist's, then those that show nothing.

    Args:
        sample: of the set.
        named: what a person named in place of a guess.

    Raises:
        DataSetError: there is no camera.
    """
    if named:
        return tuple(named), Guess('images', ', '.join(named), 'named by --images')
    paths = [path for path in sample.cameras if not _why_no_camera(sample, path)]
    if not paths:
        raise DataSetError(f'no feature is a camera: {_no_cameras(sample)}')

    def rank(path: str) -> tuple[bool, bool]:
        camera = sample.cameras[path]
        return 2 * camera.plain >= max(camera.looked_at, 1), is_named(path, *WRIST)

    paths.sort(key=rank)
    names = [card_path(path) for path in paths]
    about = [
        f'{name} ({sample.cameras[path].size[0]}x{sample.cameras[path].size[1]}'
        f'{", at the wrist by its name" if is_named(path, *WRIST) else ""})'
        for path, name in zip(paths, names, strict=True)
    ]
    check = []
    if len(paths) > 1:
        check.append('the model sees the first; put the best view there')
    for path, name in zip(paths, names, strict=True):
        camera = sample.cameras[path]
        if camera.plain:
            check.append(
                f'{name} is of one colour in {camera.plain} of {camera.looked_at} pictures'
            )
        if missing := sample.episodes - camera.complete:
            check.append(f'{name} lacks pictures in {missing} of {sample.episodes} episodes')
    left_out = [card_path(path) for path in sample.cameras if path not in paths]
    why = 'encoded pictures of three channels'
    why += f'; left out: {", ".join(left_out)}' if left_out else ''
    return tuple(names), Guess('images', ', '.join(about), why, '; '.join(check))


def _why_no_camera(sample: Sample, path: str) -> str:
    if problem := rlds_schema.camera_problem(sample.schema, card_path(path)):
        return problem
    shape = list(sample.schema[path].shape)
    if shape[-1] not in (3, None):
        return f'{path!r} is a picture {shape}, not RGB'
    if is_named(path.rpartition('/')[2], *_NO_VIEW):
        return f'{path!r} is depth or the like by its name'
    return '' if sample.cameras[path].complete else f'{path!r} has no pictures'


def _no_cameras(sample: Sample) -> str:
    """What comes near a camera in a set that has none."""
    near = [_why_no_camera(sample, path) for path in sample.cameras]
    for path, field in sample.schema.items():
        if len(field.shape) >= 3 and path not in sample.cameras:
            near.append(
                f'{path!r} is {field.dtype} {list(field.shape)}; a camera must be one '
                'tfds.features.Image a step (JPEG or PNG), so write the set anew with one'
            )
    return '; '.join(near) or f'there are {", ".join(sample.schema)}, and no pictures among them'


def state(sample: Sample) -> tuple[tuple[ActionPart, ...], Guess]:
    """The card's `state`: the one vector of each step that is called so; none where several are."""
    paths = [
        path
        for path, field in sample.schema.items()
        if path in sample.numbers
        and path.startswith('steps/')
        and re.split('[/.]', path)[-1] in STATE
        and len(field.shape) == 1
    ]
    if len(paths) != 1:
        what = f'{len(paths)} vectors are' if paths else 'no vector is'
        return (), Guess('state', 'none', f'{what} called {" or ".join(STATE)}')
    (path,) = paths
    length = rlds_schema.size(sample.schema[path])
    check = (
        "read with config.data.state='q01-q99' alone; what the robot sends must be the same numbers"
    )
    why = f'{length} numbers, by its name'
    return (ActionPart(card_path(path), 0, length),), Guess('state', card_path(path), why, check)


def instruction(sample: Sample, named: str = '') -> tuple[str, Guess]:
    """The card's `instruction`: the text that is named or worded like one, and varies by episode.

    Args:
        sample: of the set.
        named: what a person named in place of a guess.

    Raises:
        DataSetError: no text looks like one; names the texts.
    """
    if named:
        full = full_paths(sample, [named], 'instruction')[0]
        return named, Guess('instruction', named, 'named by --instruction', _same(sample, full))
    scores = {path: _likeness(path, texts) for path, texts in sample.texts.items()}
    if sample.rate and (task := f'steps/{lerobot_steps.TASK}') in scores:
        scores[task] = max(
            scores[task], 1.0
        )  # LeRobot's instruction by definition, of one word as well
    likely = sorted((path for path in scores if scores[path] > 0), key=lambda path: -scores[path])
    if not likely:
        texts = {card_path(path): sample.texts[path][0][0] for path in sample.texts}
        shown = ', '.join(f'{path} ({text!r:.40})' for path, text in texts.items())
        hint = (
            f'the texts are {shown}; name one: --instruction=PATH'
            if texts
            else 'there are no texts'
        )
        raise DataSetError(f'no feature looks like an instruction: {hint}')
    path = likely[0]
    firsts = [texts[0] for texts in sample.texts[path]]
    why = f'{len(set(firsts))} different in {sample.episodes} episodes, as {firsts[0]!r:.60}'
    others = ', '.join(card_path(other) for other in likely[1:])
    check = [f'it could be {others}'] if others else []
    check += [words for words in (_same(sample, path), _empty(firsts)) if words]
    return card_path(path), Guess('instruction', card_path(path), why, '; '.join(check))


def _likeness(path: str, texts: Sequence[Sequence[str]]) -> float:
    """How much a text is like an instruction; 0 or less: not at all."""
    firsts = [episode[0] for episode in texts]
    worded = float(np.mean([_is_sentence(text) for text in firsts]))
    by_name = next((3.0 - i for i, words in enumerate(_INSTRUCTION) if is_named(path, *words)), 0.0)
    if not worded and by_name < 3:
        return 0
    constant = float(np.mean([len(set(episode)) == 1 for episode in texts]))
    varied = len(set(firsts)) > 1
    structured = is_named(path, 'structured', 'embedding', 'id', 'file', 'path')
    return 3 * by_name + worded + 0.5 * constant + varied - structured


def _is_sentence(text: str) -> bool:
    """Whether it is a few words, not a path, a list by line or a number."""
    words = re.findall(r'[^\W\d_]{2,}', text)
    return len(words) >= 2 and ' ' in text.strip() and not re.search(r'[\n{}\\]|/\w+/', text)


def _same(sample: Sample, path: str) -> str:
    firsts = {texts[0] for texts in sample.texts.get(path, ())}
    if len(firsts) == 1 and sample.episodes > 1:
        return f'it is the same in all {sample.episodes} episodes, so language means nothing here'
    return ''


def _empty(firsts: Sequence[str]) -> str:
    empty = sum(not text.strip() for text in firsts)
    return f'it is empty in {empty} of {len(firsts)} episodes' if empty else ''


def terminate(sample: Sample) -> tuple[str, str, Guess]:
    """The card's `terminate` and `terminate_rule`: a flag that marks last steps, else `is_last`."""
    unused = []
    for path in sample.numbers:
        if not _is_flag(sample, path):
            continue
        rule = 'argmax' if sample.size(path) == 3 else 'flag'
        marked, earlier = _marks(sample, path)
        why = f'it marks the last step of {marked} of {sample.episodes} episodes'
        if marked < _OFTEN * sample.episodes:
            unused.append(f'{card_path(path)} is not used: {why}')
            continue
        checks = [f'it marks {earlier} earlier steps, too'] if earlier else []
        checks += [f'{left} episodes end without'] if (left := sample.episodes - marked) else []
        guess = Guess('terminate', f'{rule} {card_path(path)}', why, '; '.join(checks))
        return card_path(path), rule, guess
    if 'steps/is_last' in sample.numbers:
        marked, _ = _marks(sample, 'steps/is_last')
        unused.append(f'is_last marks the end of {marked} of {sample.episodes} episodes')
        if marked:
            check = (
                "the policy ends an episode as the recordings end; the rule 'none', with "
                'action_space.terminate false, is for robots that somebody else stops'
            )
            return '', 'last_step', Guess('terminate', 'last_step', '; '.join(unused), check)
    why = '; '.join([*unused, 'no feature marks the last steps'])
    return '', 'none', Guess('terminate', 'none', why, 'the policy will never end an episode')


def _is_flag(sample: Sample, path: str) -> bool:
    """Whether a feature is named and shaped like a terminate flag of a step."""
    name = path.rpartition('/')[2]
    return (
        path.startswith('steps/')
        and sample.size(path) in (1, 3)
        and not name.startswith('is_')
        and is_named(name, 'terminat', 'done')
    )


def _marks(sample: Sample, path: str) -> tuple[int, int]:
    """How many episodes' last steps a flag marks, and how many other steps."""
    last = earlier = 0
    for episode in sample.numbers[path]:
        rows = episode.reshape(len(episode), -1)
        ends = rows.argmax(axis=1) == 0 if rows.shape[1] == 3 else rows[:, 0] > 0.5
        last, earlier = last + int(ends[-1]), earlier + int(ends[:-1].sum())
    return last, earlier


def success(sample: Sample) -> tuple[str, Guess]:
    """The card's `success`: a flag of the episode; '' where there is none."""
    flags = [
        path
        for path in sample.numbers
        if not path.startswith('steps/') and sample.size(path) == 1 and 'success' in path.lower()
    ]
    if not flags:
        return '', Guess('success', 'none', 'no flag of the episode is named so')
    # 'aspects/success', not 'aspects/already_success'.
    path = min(flags, key=lambda path: len(path.rpartition('/')[2]))
    good = sum(bool((value > 0).all()) for value in sample.numbers[path])
    why = f'{good} of {sample.episodes} episodes succeed ({percent(good / sample.episodes)})'
    others = [other for other in flags if other != path]
    return path, Guess('success', path, why, f'it could be {", ".join(others)}' if others else '')


def frequency(sample: Sample, named: float) -> tuple[float, Guess]:
    """The card's `frequency`: by a clock in the data, else a placeholder."""
    if named:
        return named, Guess('frequency', f'{named:g} Hz', 'named by --frequency')
    if sample.rate:
        why = 'frames a second in meta/info.json'
        return sample.rate, Guess('frequency', f'{sample.rate:g} Hz', why)
    for path, episodes in sample.numbers.items():
        if path.startswith('steps/') and sample.size(path) == 1 and is_named(path, 'timestamp'):
            gaps = np.concatenate([np.diff(episode.reshape(-1)) for episode in episodes])
            if len(gaps) and 0.001 < (gap := float(np.median(gaps))) < 10:
                rate = round(1 / gap, 2)
                why = f'{card_path(path)} grows by {gap:.3g} a step, taken as seconds'
                return rate, Guess('frequency', f'{rate:g} Hz', why, 'the rate')
    check = 'the rate; --frequency=HZ names it'
    return 5.0, Guess('frequency', '5 Hz', 'a placeholder: the data have no clock', check)
