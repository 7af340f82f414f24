"""From an observation and an instruction to an action."""

from rt2_jax.policy.policy import Policy
from rt2_jax.policy.robot import Robot

__all__ = ['Policy', 'Robot']
