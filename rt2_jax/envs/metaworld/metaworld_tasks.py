"""Meta-World's fifty tasks: how hard they are, and what one says to a robot that is to do them.

The instructions are this project's own words. The last one of a task is never used in training: the suites
`*_other_words` ask with it. The others are drawn, an episode each.
"""

from __future__ import annotations

import dataclasses

# As LeRobot splits them (huggingface/lerobot, src/lerobot/envs/metaworld.py, DIFFICULTY_TO_TASKS), with which
# published results of vision-language-action models come.
DIFFICULTIES = ('easy', 'medium', 'hard', 'very_hard')

# MT10 of the package (metaworld/env_dict.py, MT10_V3).
MT10 = (
    'reach',
    'push',
    'pick-place',
    'door-open',
    'drawer-open',
    'drawer-close',
    'button-press-topdown',
    'peg-insert-side',
    'window-open',
    'window-close',
)


@dataclasses.dataclass(frozen=True)
class Task:
    """A task of Meta-World.

    Attributes:
        name: the package's, without '-v3'.
        difficulty: one of DIFFICULTIES.
        instructions: those of training.
        other_words: the one that is not.
    """

    name: str
    difficulty: str
    instructions: tuple[str, ...]
    other_words: str


def _tasks(difficulty: str, words: dict[str, tuple[str, ...]]) -> dict[str, Task]:
    return {
        name: Task(name, difficulty, wordings[:-1], wordings[-1])
        for name, wordings in words.items()
    }


TASKS = (
    _tasks(
        'easy',
        {
            'button-press': (
                'press the button',
                'push the button in',
                'press the red button',
                'poke the button on the box',
            ),
            'button-press-topdown': (
                'press the button from above',
                'push the button down',
                'press the button on top',
                'poke the button from the top',
            ),
            'button-press-topdown-wall': (
                'press the button from above behind the wall',
                'go over the wall and push the button down',
                'press the button on top behind the wall',
                'poke the button from the top past the wall',
            ),
            'button-press-wall': (
                'press the button behind the wall',
                'go over the wall and push the button in',
                'press the red button behind the wall',
                'poke the button past the wall',
            ),
            'coffee-button': (
                'press the button of the coffee machine',
                'switch the coffee machine on',
                'push the coffee button',
                'make some coffee',
            ),
            'dial-turn': (
                'turn the dial',
                'rotate the dial',
                'turn the knob around',
                'twist the dial',
            ),
            'door-close': (
                'close the door',
                'push the door shut',
                'shut the door of the safe',
                'make the door closed',
            ),
            'door-lock': (
                'lock the door',
                'turn the lock down',
                'lock the safe',
                'fasten the lock of the door',
            ),
            'door-open': (
                'open the door',
                'pull the door open',
                'open the door of the safe',
                'swing the door open',
            ),
            'door-unlock': (
                'unlock the door',
                'turn the lock up',
                'unlock the safe',
                'release the lock of the door',
            ),
            'drawer-close': (
                'close the drawer',
                'push the drawer in',
                'push the drawer shut',
                'shut the drawer',
            ),
            'drawer-open': (
                'open the drawer',
                'pull the drawer out',
                'pull the drawer open',
                'slide the drawer out',
            ),
            'faucet-close': (
                'close the faucet',
                'turn the faucet off',
                'turn the tap off',
                'stop the water',
            ),
            'faucet-open': (
                'open the faucet',
                'turn the faucet on',
                'turn the tap on',
                'let the water run',
            ),
            'handle-press': (
                'press the handle down',
                'push the handle down',
                'press the handle',
                'lower the handle',
            ),
            'handle-press-side': (
                'press the handle down from the side',
                'push the sideways handle down',
                'press the handle at the side',
                'lower the handle from the side',
            ),
            'handle-pull': (
                'pull the handle up',
                'lift the handle',
                'pull the handle',
                'raise the handle',
            ),
            'handle-pull-side': (
                'pull the handle up from the side',
                'lift the sideways handle',
                'pull the handle at the side',
                'raise the handle from the side',
            ),
            'lever-pull': (
                'pull the lever up',
                'move the lever up',
                'lift the lever',
                'raise the lever',
            ),
            'peg-unplug-side': (
                'unplug the peg',
                'pull the peg out',
                'pull the peg out of the box',
                'take the plug out',
            ),
            'plate-slide': (
                'slide the plate into the cabinet',
                'push the plate into the goal',
                'slide the plate in',
                'shove the plate into the cabinet',
            ),
            'plate-slide-back': (
                'slide the plate out of the cabinet',
                'pull the plate back',
                'slide the plate back',
                'drag the plate out of the cabinet',
            ),
            'plate-slide-back-side': (
                'slide the plate sideways out of the cabinet',
                'pull the plate back to the side',
                'slide the plate back sideways',
                'drag the plate out sideways',
            ),
            'plate-slide-side': (
                'slide the plate sideways into the cabinet',
                'push the plate to the side into the cabinet',
                'slide the plate in sideways',
                'shove the plate in from the side',
            ),
            'reach': (
                'reach the goal',
                'move the hand to the goal',
                'go to the red dot',
                'touch the goal',
            ),
            'reach-wall': (
                'reach the goal behind the wall',
                'go around the wall to the goal',
                'move the hand to the goal behind the wall',
                'touch the goal past the wall',
            ),
            'window-close': (
                'close the window',
                'slide the window shut',
                'push the window closed',
                'shut the window',
            ),
            'window-open': (
                'open the window',
                'slide the window open',
                'push the window open',
                'let some air in',
            ),
        },
    )
    | _tasks(
        'medium',
        {
            'basketball': (
                'put the ball into the basket',
                'throw the ball through the hoop',
                'pick the ball and dunk it',
                'score with the basketball',
            ),
            'bin-picking': (
                'put the block into the other bin',
                'move the block from one bin to the other',
                'pick the block and drop it in the other bin',
                'bring the block to the bin on the other side',
            ),
            'box-close': (
                'put the lid on the box',
                'close the box',
                'pick the lid and close the box',
                'cover the box',
            ),
            'coffee-pull': (
                'pull the mug away from the coffee machine',
                'move the mug to the goal',
                'pull the cup away',
                'take the mug from the coffee machine',
            ),
            'coffee-push': (
                'push the mug to the coffee machine',
                'put the mug under the coffee machine',
                'push the cup under the machine',
                'bring the mug to the coffee machine',
            ),
            'hammer': (
                'hammer the nail in',
                'pick the hammer and hit the nail',
                'hit the nail with the hammer',
                'drive the nail into the wall',
            ),
            'peg-insert-side': (
                'put the peg into the hole',
                'insert the peg from the side',
                'pick the peg and plug it in',
                'stick the peg into the box',
            ),
            'push-wall': (
                'push the puck around the wall',
                'push the puck to the goal behind the wall',
                'move the puck past the wall to the goal',
                'shove the puck around the wall',
            ),
            'soccer': (
                'push the ball into the goal',
                'kick the ball',
                'score a goal with the soccer ball',
                'roll the ball into the net',
            ),
            'sweep': (
                'sweep the block off the table',
                'push the block to the edge',
                'sweep the block away',
                'brush the block off the table',
            ),
            'sweep-into': (
                'sweep the block into the hole',
                'push the block into the hole',
                'sweep the block in',
                'brush the block into the hole',
            ),
        },
    )
    | _tasks(
        'hard',
        {
            'assembly': (
                'put the ring on the peg',
                'pick the wrench and put it on the peg',
                'place the nut on the peg',
                'hang the ring over the peg',
            ),
            'hand-insert': (
                'put the hand into the hole',
                'insert the gripper into the hole',
                'reach into the hole',
                'stick the hand into the hole',
            ),
            'pick-out-of-hole': (
                'pick the puck out of the hole',
                'lift the puck from the hole',
                'take the puck out of the hole',
                'get the puck out of the hole',
            ),
            'pick-place': (
                'pick the puck and bring it to the goal',
                'lift the puck to the goal',
                'pick the puck up and place it at the goal',
                'carry the puck to the goal',
            ),
            'push': (
                'push the puck to the goal',
                'slide the puck to the goal',
                'move the puck along the table to the goal',
                'shove the puck to the goal',
            ),
            'push-back': (
                'pull the puck back to the goal',
                'push the puck back',
                'slide the puck back to the goal',
                'drag the puck back',
            ),
        },
    )
    | _tasks(
        'very_hard',
        {
            'disassemble': (
                'take the ring off the peg',
                'pick the wrench off the peg',
                'lift the nut off the peg',
                'remove the ring from the peg',
            ),
            'pick-place-wall': (
                'pick the puck and bring it over the wall',
                'lift the puck over the wall to the goal',
                'pick the puck and place it behind the wall',
                'carry the puck over the wall',
            ),
            'shelf-place': (
                'put the block on the shelf',
                'pick the block and place it on the shelf',
                'lift the block onto the shelf',
                'set the block on the shelf',
            ),
            'stick-pull': (
                'pull the thermos with the stick',
                'pick the stick and pull the thermos',
                'take the stick and pull the thermos',
                'drag the thermos with the stick',
            ),
            'stick-push': (
                'push the thermos with the stick',
                'pick the stick and push the thermos',
                'take the stick and push the thermos',
                'shove the thermos with the stick',
            ),
        },
    )
)


def _suites() -> dict[str, tuple[str, ...]]:
    by_difficulty = {
        difficulty: tuple(t.name for t in TASKS.values() if t.difficulty == difficulty)
        for difficulty in DIFFICULTIES
    }
    return {
        'mt10': MT10,
        'mt50': tuple(TASKS),
        **by_difficulty,
        **{name: (name,) for name in TASKS},
    }


SUITES = _suites()  # the tasks of each suite
