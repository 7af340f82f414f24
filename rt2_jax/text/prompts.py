"""The wording of prompts, as printed in the RT-2 paper (arXiv 2307.15818, sections 3.2 and 4.4).

| task | prompt | answer |
|---|---|---|
| robot | `Q: what action should the robot take to pick banana? A:` | eight action tokens |
| robot with plan | `Instruction: pick banana.` | `Plan: pick banana. Action:` and eight action tokens |
| web | `Q: what is in the image? A:` | any text |
"""

ACTION_MARKER = 'Action:'  # what ends a plan; the grammar of decoding looks for its ids


def robot(instruction: str) -> str:
    """The prompt of a robot example; `instruction` as the operator says it ("pick banana")."""
    return f'Q: what action should the robot take to {instruction.strip().rstrip(".?")}? A:'


def robot_plan(instruction: str) -> str:
    """The prompt that asks for a plan before the action (chain of thought)."""
    return f'Instruction: {instruction.strip().rstrip(".")}.'


def plan(text: str) -> str:
    """The text in front of the action tokens of a planned answer."""
    return f'Plan: {text.strip().rstrip(".")}. {ACTION_MARKER}'


def web(question: str) -> str:
    """The prompt of a web example (VQA, captions)."""
    return f'Q: {question.strip().rstrip("?")}? A:'
