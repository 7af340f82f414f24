"""A policy as one of vla-eval's own model servers, for its Python `evaluate` during a training.

    server = model_server(policy, camera='agentview')  # of several cameras 'agentview,wrist'
    results = vla_eval.evaluate(server, 'libero.yaml', docker=False)

The harness hosts it in this process, on a port of its own. What it is sent and sends is as in
`vla_eval.py`. Source: model_servers/base.py and api.py of vla-eval 0.8.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from rt2_jax.decoding.grammar import Kind
from rt2_jax.errors import MissingPackage
from rt2_jax.policy import Policy
from rt2_jax.serving import messages, vla_eval
from rt2_jax.serving.limits import Limits
from rt2_jax.serving.service import Session


def model_server(
    policy: Policy,
    *,
    camera: str | None = None,
    convention: str | None = None,
    gripper: tuple[float, float] | None = None,
    limits: Limits = Limits(),
) -> Any:
    """Compiles the policy, and returns a `vla_eval.model_servers.base.ModelServer` of it.

    Args:
        policy: that acts; one observation is computed at a time.
        camera: name of the picture that it sees, or names by comma; may be left out where one comes.
        convention: of the actions; by default 'robot', or 'internal' without a card.
        gripper: the values that are closed and open where they aren't the convention's.
        limits: of pictures and texts.

    Raises:
        MissingPackage: vla-eval isn't installed.
        ValueError: no such convention, or a gripper that can't be.
    """
    try:
        from vla_eval.model_servers.base import ModelServer
        from vla_eval.specs import DimSpec
    except ImportError as error:
        raise MissingPackage("vla-eval's evaluate", str(error.name), 'vla_eval') from error

    cameras = vla_eval.shown(camera.split(',') if camera else (), policy)
    options = vla_eval.Options(cameras, policy.convention(convention), gripper)
    described = vla_eval.describe(policy, options)
    policy.warm_up(policy.batch_sizes[:1], [Kind.PLAN if policy.plan else Kind.ACTION])

    def specs(name: str) -> dict[str, DimSpec]:
        return {part: DimSpec.from_dict(spec) for part, spec in described[name].items()}

    class RT2ModelServer(ModelServer):
        def __init__(self) -> None:
            self._sessions: dict[str, Session] = {}

        async def on_episode_start(self, config: Mapping[str, Any], ctx: Any) -> None:
            self._sessions[ctx.session_id] = Session(policy, options.convention)

        async def on_episode_end(self, result: Mapping[str, Any], ctx: Any) -> None:
            self._sessions.pop(ctx.session_id, None)

        async def on_observation(self, obs: Mapping[str, Any], ctx: Any) -> None:
            before = self._sessions.get(ctx.session_id) or Session(policy, options.convention)
            session = before.copy()
            felt = policy.settings.state_space is not None
            request = messages.from_vla_eval(obs, limits, cameras, felt)
            frames = session.observation(request)
            action = policy.act(cast(Any, frames), request.text, request.state).action
            await ctx.send_action(vla_eval.action_payload(session, action, options))
            self._sessions[ctx.session_id] = session

        def get_action_spec(self) -> dict[str, DimSpec]:
            return specs('action_spec')

        def get_observation_spec(self) -> dict[str, DimSpec]:
            return specs('observation_spec')

        def get_observation_params(self) -> dict[str, Any]:
            return described.get('observation_params', {})

    return RT2ModelServer()
