"""What a pull node says to a mirror (fetch, watch) and to a letterbox (post); no more exists."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence

from cryptography import x509
from urllib3.response import HTTPResponse

from embrasure import limits
from embrasure.clock import Clock, now
from embrasure.errors import EmbrasureError, NotFound, Refused, Unavailable
from embrasure.net.dial import HttpsClient, Server
from embrasure.net.door_dial import DoorServer
from embrasure.net.pace import Deadline, MinimumSpeed, Seconds
from embrasure.net.trustbundle import Trust
from embrasure.trust import layout
from embrasure.trust.foretold import Foretold

_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15})")
_LENGTH = re.compile(r"[0-9]{1,15}")
_VERSION = re.compile(rb"[1-9][0-9]{0,8}")
_STEP = re.compile(r"[1-9][0-9]{0,8}")
_TIMESTAMP = layout.metadata_file(layout.TIMESTAMP, 0)
_ABSENT = frozenset({403, 404, 410})


class MirrorSource:
    """A mirror as a Source (`embrasure.trust.source`); untrusted, like every source."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        trust: Trust,
        clock: Clock = now,
        steady: Seconds = time.monotonic,
        roots: Sequence[x509.Certificate] = (),
        newest: Callable[[], Trust] | None = None,
        recheck_s: float = limits.RECHECK_SECONDS,
    ) -> None:
        """roots: for trust files alone, any mirror below these CA roots, denied or expired too;
        newest: whom to believe now, so that a mirror that is denied ends in mid-download;
        recheck_s: between two looks at that.
        """
        self.server = (
            DoorServer(address, "mirror", name, trust, clock, steady, roots)
            if roots
            else Server(address, "mirror", name, trust, clock, steady)
        )
        self._client = HttpsClient(self.server, newest, recheck_s=recheck_s)
        self._foretold = Foretold(steady)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def fetch(self, path: str, *, offset: int, limit: int) -> Iterator[bytes]:
        """Yield the bytes of `path` from `offset` on, at most `limit` of them, as they come.

        A body that ends early is Unavailable, so nothing cut looks whole. A server that ignores
        the range is taken: the bytes before `offset` are thrown away. Of a pack the range ends
        where `limit` does; who ignores that has more than is wanted. The root step of which the
        mirror said a moment ago, beside its timestamp, that there is none is not asked for again.
        """
        kind = layout.parse_wanted(path)
        steady = self.server.steady
        if self._foretold.take() == path:
            raise NotFound(path, expected="a file", got="none, as the mirror said")
        pace = Deadline(steady) if kind.metadata else MinimumSpeed(steady)
        is_part = layout.parse_pack(path) is not None
        end = str(offset + limit - 1) if is_part else ""
        headers = {"Range": f"bytes={offset}-{end}"} if offset or is_part else {}
        with self._client.ask("GET", path, headers=headers) as answer:
            check_found(answer, path)
            skip = check_extent(answer, path, offset=offset, limit=limit, is_part=is_part)
            while piece := answer.read1(limits.BUFFER_BYTES, decode_content=False):
                pace.add(len(piece))
                kept = piece[skip:]
                skip = max(0, skip - len(piece))
                if kept:
                    yield kept
            if path == _TIMESTAMP:
                self._foretold.keep(step_after(answer.headers.get(layout.ROOT_HEADER, "")))

    def foretold(self) -> str:
        """Return the path that the mirror said it has not, unless it was asked for more since."""
        return self._foretold.take()

    def watch(self, version: int, *, seconds: float = limits.WATCH_SECONDS) -> int | None:
        """Return the mirror's timestamp version once it is above `version`, None after a while.

        A hint and no more: whatever it says, a normal refresh follows. Raises NotFound when the
        server has no watch (a static one), Unavailable.
        """
        with self._client.ask("GET", f"v1/watch/{version}", seconds=seconds + 10) as answer:
            check_found(answer, "v1/watch", also=204)
            if answer.status == 204:
                return None
            found = self._client.read_small(answer, limit=16)
        if not _VERSION.fullmatch(found):
            raise Refused("v1/watch", expected="a version", got=found, reason="bad-schema")
        return int(found)


class LetterboxClient:
    """The one thing a pull node may do with a letterbox: post."""

    def __init__(
        self,
        address: str,
        *,
        name: str,
        trust: Trust,
        clock: Clock = now,
        newest: Callable[[], Trust] | None = None,
    ) -> None:
        """newest: whom to believe now, also of a post under way."""
        self._client = HttpsClient(Server(address, "letterbox", name, trust, clock), newest)

    def close(self) -> None:
        """Drop the connections."""
        self._client.close()

    def post(self, path: str, frame: bytes) -> None:
        """`frame` (`embrasure.net.post`) lies in its slot; a repeat of the same bytes is fine.

        Raises Refused (`filled`: other bytes were taken earlier; `post`: not taken as things are),
        Unavailable (`busy`: later).
        """
        with self._client.ask("POST", path, body=frame) as answer:
            if answer.status not in (200, 201, 204):
                word = self._client.read_small(answer, limit=200).decode("ascii", "replace")
                raise _turned_down(answer.status, word)


def step_after(said: str) -> str:
    """Return the root step that a mirror has not, by its word beside the timestamp; empty when it
    says nothing.

    The word of who would answer the question with "no such file": it is believed as that is.
    """
    return layout.metadata_file(layout.ROOT, int(said) + 1) if _STEP.fullmatch(said) else ""


def check_found(answer: HTTPResponse, path: str, *, also: int = 206) -> None:
    """Return only when `answer` brings what was asked for; raises ours."""
    if answer.status in (200, also):
        return
    if answer.status in _ABSENT:
        raise NotFound(path, expected="a file", got=answer.status)
    if answer.status == 416:
        raise Refused(path, expected="bytes at the offset", got="none", reason="bad-offset")
    raise Unavailable(path, expected="a file", got=f"status {answer.status}")


def check_extent(
    answer: HTTPResponse, path: str, *, offset: int, limit: int, is_part: bool = False
) -> int:
    """Return how many bytes of the body lie before `offset`; raises Refused (`limit`, ...).

    is_part: more of the file may lie behind the range
    """
    stated = answer.headers.get("Content-Length", "")
    if not _LENGTH.fullmatch(stated):
        raise Refused(path, expected="a stated length", got=stated, reason="bad-schema")
    skip = offset
    if answer.status == 206:
        found = _RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        is_end = found is not None and (is_part or int(found[2]) + 1 == int(found[3]))
        if found is None or int(found[1]) != offset or not is_end:
            raise Refused(path, expected="the range asked for", got="another", reason="bad-offset")
        skip = 0
    if int(stated) - skip > limit:
        raise Refused(path, expected=f"at most {limit} bytes", got=stated, reason="limit")
    if int(stated) < skip:
        raise Refused(path, expected="bytes at the offset", got="none", reason="bad-offset")
    return skip


def _turned_down(status: int, word: str) -> EmbrasureError:
    if status == 429 or status >= 500:
        return Unavailable("post", expected="room in the letterbox", got=word, reason="busy")
    if status == 409:
        return Refused("post", expected="an empty slot", got="a filled one", reason="filled")
    return Refused("post", expected="to be taken", got=f"{status} {word}", reason="post")
