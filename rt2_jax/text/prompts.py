"""The wording of prompts, as printed in the RT-2 paper (arXiv 2307.15818, sections 3.2 and 4.4).

| task | prompt | answer |
|---|---|---|
| robot | `Q: what action should the robot take to pick banana? A:` | eight action tokens |
| robot with plan | `Instruction: pick banana.` | `Plan: pick banana. Action:` and eight action tokens |
| robot with state | `State: 141 102. ` before either | as without |
| web | `Q: what is in the image? A:` | any text |

RT-2 has no state; integers of its bins in the prompt are those of pi0-FAST (arXiv 2501.09747) and pi0.5. It
stands in front, so that what is cut of a prompt that is too long is never a part of it.

Language-Table's prediction tasks (the paper's appendix) have no published wording that we know of; ours:

| task | prompt | answer |
|---|---|---|
| instruction | `Q: what does the robot do? A:` | `push the star to the cube` |
| arm position | `Q: where is the arm? A:` | `510 330` |
| time steps | `Q: how many steps are between the frames? A:` | `12` |
| success | `Q: did the robot push the star to the cube? A:` | `yes` or `no` |

Of web sets RT-2 prints questions alone; the rest is worded as its backbones were trained:

| task | prompt | from |
|---|---|---|
| caption | `Generate the alt_text in EN at 0:` | PaLI (arXiv 2209.06794), whose position 0 is the start |
| question | `Answer in EN: what is in the image` | PaLI |
| ocr | `Generate the ocr_text in EN:` | like PaLI's captions; its own wording is not published |
| detect | `detect cat ; dog` | PaliGemma (arXiv 2407.07726) |
"""

from collections.abc import Sequence

ACTION_MARKER = 'Action:'  # what ends a plan; the grammar of decoding looks for its ids
ROBOT_INSTRUCTION = 'Q: what does the robot do? A:'
ARM_POSITION = 'Q: where is the arm? A:'
TIME_STEPS = 'Q: how many steps are between the frames? A:'


def phrase(kind: str, x: str, y: str = '', direction: str = '') -> str:
    """The instruction of a task of the tabletop.

    >>> phrase('push', 'banana', 'drum')
    'push banana to drum'
    """
    if kind == 'pick':
        return f'pick {x}'
    if kind == 'push':
        return f'push {x} to {y}'
    return f'turn {x} {direction}'


def robot(instruction: str) -> str:
    """The prompt of a robot example, for an instruction such as "pick banana"."""
    return f'Q: what action should the robot take to {instruction.strip().rstrip(".?")}? A:'


def robot_plan(instruction: str) -> str:
    """The prompt that asks for a plan before the action (chain of thought)."""
    return f'Instruction: {instruction.strip().rstrip(".")}.'


def with_state(prompt: str, state: str) -> str:
    """A robot's prompt with its state, integers as `Grid.text` has them; '' leaves the prompt as it is."""
    return f'State: {state}. {prompt}' if state else prompt


def plan(text: str) -> str:
    """The text in front of the action tokens of a planned answer."""
    return f'{plan_start(text.strip().rstrip("."))}. {ACTION_MARKER}'


def plan_start(text: str) -> str:
    """How a plan begins, for answers that can't say all of it."""
    return f'Plan: {text}'


def plan_text(answer: str) -> str:
    """The inverse of `plan`, and of `plan_start`; '' for an answer without one."""
    text = answer.partition(ACTION_MARKER)[0].strip().removeprefix('Plan:').strip()
    return text.removesuffix('.')


def web(question: str) -> str:
    """The prompt of a web example (VQA, captions)."""
    return f'Q: {question.strip().rstrip("?")}? A:'


def robot_success(instruction: str) -> str:
    """The prompt that asks whether the frames show an instruction done; 'yes' or 'no'."""
    return web(f'did the robot {instruction.strip().rstrip(".?")}')


def caption(language: str) -> str:
    """The prompt that asks for a caption in a language ('en')."""
    return f'Generate the alt_text in {language.upper()} at 0:'


def answer(question: str, language: str) -> str:
    """The prompt that asks a question, to be answered in a language."""
    return f'Answer in {language.upper()}: {question.strip()}'


def ocr(language: str) -> str:
    """The prompt that asks for the text in the picture."""
    return f'Generate the ocr_text in {language.upper()}:'


def detect(names: Sequence[str]) -> str:
    """The prompt that asks for the boxes of everything of these names."""
    return f'detect {" ; ".join(names)}'
