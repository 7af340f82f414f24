"""Why a request is not answered: what a client is told, and what it means for its connection.

openpi's protocol has one form for every error, a text frame and then close code 1011, and that is
what a message gets that is wrong in itself: its frame may be missing in the robot's history, so
going on would act on another past than the robot had. Two refusals say nothing of the message, only
that now is a bad time (`Overloaded`, `Expired`): their text frame leaves the connection open, since
a reconnection of every robot is the last thing that a busy server needs. Nothing of what they refuse
is remembered, neither a frame nor that an episode began, so the client sends the same message again.
"""

from __future__ import annotations


class Refusal(Exception):
    """A request that is not answered; the text is for the client.

    Attributes:
      status: of HTTP.
      outcome: in the metrics.
      closes: whether a websocket ends with it.
    """

    status = 500
    outcome = 'failed'
    closes = True

    @property
    def headers(self) -> dict[str, str]:
        """Headers of the HTTP answer."""
        return {}


class Malformed(Refusal):
    status, outcome = 400, 'malformed'


class Unauthorized(Refusal):
    status, outcome = 401, 'unauthorized'

    @property
    def headers(self) -> dict[str, str]:
        return {'WWW-Authenticate': 'Api-Key'}


class TooSlow(Refusal):
    status, outcome = 408, 'too_slow'

    @property
    def headers(self) -> dict[str, str]:
        return {'Connection': 'close'}


class TooLarge(Refusal):
    status, outcome = 413, 'too_large'

    @property
    def headers(self) -> dict[str, str]:
        return {'Connection': 'close'}


class Overloaded(Refusal):
    status, outcome, closes = 503, 'overloaded', False

    @property
    def headers(self) -> dict[str, str]:
        return {'Retry-After': '1'}


class NotReady(Refusal):
    """Before the warm-up has ended, and while shutting down."""

    status, outcome = 503, 'not_ready'

    @property
    def headers(self) -> dict[str, str]:
        return {'Retry-After': '5'}


class Expired(Refusal):
    status, outcome, closes = 504, 'expired', False


# What is said of every refusal that leaves the connection open.
SEND_AGAIN = 'Nothing of the request is remembered; send it again.'


class Failed(Refusal):
    """A fault of the server itself."""
