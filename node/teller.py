"""What the network side says of itself: once in the log, and to apply, which shows it to people."""

from __future__ import annotations

import time
from collections.abc import Callable
from logging import getLogger

from embrasure.errors import EmbrasureError
from node.answering import Deaf, NoSource, converse
from node.ipc import Channel
from node.messages import FromApply, NetworkAsk, sentence

LOG = getLogger(__name__)
_ANEW_SECONDS = 60.0  # apply may have been started again


class Teller:
    """Says each thing once; to apply once a minute, whether or not it listens."""

    def __init__(self, connect: Callable[[], Channel[FromApply]]) -> None:
        self._connect = connect
        self._logged = ""
        self._told: tuple[int, str] | None = None
        self._at = 0.0

    def works(self, until: int = 0) -> None:
        """Nothing is in the way. until: when the certificate that is shown ends, 0 for none."""
        self._logged = ""
        self._tell(until, "")

    def waits(self, problem: EmbrasureError, until: int = 0) -> None:
        """`problem` is in the way: one line in the log, and a word in `node status`."""
        text = f"{problem} [{problem.word}]; hint: {problem.hint or 'none'}"
        if text != self._logged:
            LOG.error("%s", text)
            self._logged = text
        self._tell(until, sentence(text))

    def _tell(self, until: int, trouble: str) -> None:
        now = time.monotonic()
        if (until, trouble) == self._told and now - self._at < _ANEW_SECONDS:
            return
        try:
            with self._connect() as channel:
                converse(channel, NetworkAsk(until=until, trouble=trouble), NoSource(), Deaf())
        except EmbrasureError:
            return  # it is told again
        self._told, self._at = (until, trouble), now
