"""A scripted expert for LIBERO-Object: it picks one object and drops it in the basket.

What it does depends on where things are now, never on what it did before, so that it finds back from wherever
the arm was carried off to.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

STEP, TURN = 0.05, 0.5  # what 1 commands the controller: metres, radians
CLEAR = 0.05  # the fingers' way over what stands around, metres
CARRY = 0.28  # the hand's height on its way to the basket, metres
BESIDE, OVER_BASKET = 0.012, 0.03  # so near in x and y the hand is above its goal, metres
NEARLY = 0.016  # so high above where they grasp the fingers begin to close, metres
TURNED = 0.08  # so near to its angle the hand is turned, radians
DEPTH = 0.03  # of the finger tips below an object's top, metres
FLOOR = 0.012  # the finger tips' lowest height, metres
TOO_WIDE = 0.034  # half of what the open fingers take, metres
OPEN, CLOSE = -1.0, 1.0


@dataclasses.dataclass(frozen=True)
class Seen:
    """Where things are: x away from the robot, y to its left, z up; metres.

    Attributes:
        hand: the middle between the finger tips, float [3].
        yaw: how far the hand is turned from where the fingers open along y, radians.
        low: the least x, y, z of the object, float [3].
        high: the greatest.
        basket: its middle, float [3].
        held: whether both fingers touch the object.
    """

    hand: np.ndarray
    yaw: float
    low: np.ndarray
    high: np.ndarray
    basket: np.ndarray
    held: bool


def decide(seen: Seen) -> np.ndarray:
    """The expert's command, float [7], each -1 to 1."""
    return carry(seen) if seen.held else pick(seen)


def pick(seen: Seen) -> np.ndarray:
    """Above the object, down, close."""
    middle = (seen.low + seen.high) / 2
    grasp = np.array([*middle[:2], max(seen.high[2] - DEPTH, middle[2] - 0.01, FLOOR)])
    # Too wide along y, it is taken along x.
    wanted = math.pi / 2 if (seen.high - seen.low)[1] / 2 > TOO_WIDE else 0.0
    turn = _turn(wanted - seen.yaw)
    beside = np.abs(seen.hand[:2] - grasp[:2]).max() < BESIDE and abs(turn) < TURNED
    if not beside:
        over = seen.high[2] + CLEAR
        low = seen.hand[2] < over - 0.02
        goal = np.array([*(seen.hand if low else grasp)[:2], over])
        return command(goal - seen.hand, turn, OPEN)
    if seen.hand[2] > grasp[2] + NEARLY:
        return command(grasp - seen.hand, turn, OPEN)
    return command(grasp - seen.hand, turn, CLOSE)


def carry(seen: Seen) -> np.ndarray:
    """Up, to the basket, open."""
    to_basket = seen.basket[:2] - (seen.low + seen.high)[:2] / 2
    if np.abs(to_basket).max() < OVER_BASKET:
        return command(np.zeros(3), 0.0, OPEN)
    up = CARRY - seen.hand[2]
    if up > 0.05:
        to_basket = np.zeros(2)
    return command(np.array([*to_basket, up]), 0.0, CLOSE)


def command(way: np.ndarray, turn: float, gripper: float) -> np.ndarray:
    """The command that moves the hand along `way`, float [3], and turns it.

    The hand goes about half of what it is told in a step, so it is told twice as much.
    """
    move = np.clip(2 * way / STEP, -1, 1)
    return np.array([*move, 0, 0, np.clip(turn / TURN, -1, 1), gripper])


def _turn(angle: float) -> float:
    """An angle as the shortest turn of a gripper, which is the same after half a turn."""
    return (angle + math.pi / 2) % math.pi - math.pi / 2
