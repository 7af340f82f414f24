"""The embedded default: tiles with pictures on a table, a gripper, an instruction.

`gymnasium.make('rt2_jax/Tabletop-v0', suite='seen')` or `env.TabletopEnv(suite='seen')`.
"""

import gymnasium

gymnasium.register(id='rt2_jax/Tabletop-v0', entry_point='rt2_jax.envs.tabletop.env:TabletopEnv')
