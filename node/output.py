"""What a process prints: its end is kept, the log file is bounded, the process never blocks."""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.fs import Folder


class Output:
    """The reading end of a process's output. `take` never waits."""

    def __init__(self, fd: int, log: Path | None) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._log = log
        self._size = 0
        self._head, self._tail, self._count = bytearray(), bytearray(), 0

    def fileno(self) -> int:
        """Return the descriptor, for a selector."""
        return self._fd

    def take(self) -> bool:
        """Return whether more may come; what has come is kept."""
        try:
            data = os.read(self._fd, limits.OUTPUT_BYTES)
        except BlockingIOError:
            return True
        room = limits.OUTPUT_HEAD_BYTES - len(self._head)
        self._head += data[:room]
        self._tail += data
        del self._tail[: -limits.OUTPUT_BYTES]
        self._count += len(data)
        if self._log is not None and data:
            self._append(self._log, data)
        return bool(data)

    def _append(self, log: Path, data: bytes) -> None:
        """The log grows; a full disk costs lines of the log, never the app."""
        with contextlib.suppress(EmbrasureError), Folder.open(log.parent) as folder:
            if self._size > limits.APP_LOG_BYTES:
                folder.rename(log.name, folder, f"{log.name}.1", replace=True)
            self._size = folder.append(log.name, data)

    def tail(self, length: int) -> bytes:
        """Return the last `length` bytes."""
        return bytes(self._tail[-length:])

    def whole(self) -> bytes:
        """Return all that came, at most `limits.OUTPUT_BYTES`: the first bytes of more, how many
        are missing, the last ones.
        """
        if self._count <= limits.OUTPUT_BYTES:
            return bytes(self._tail)
        mark = b"\n[%d bytes]\n"
        room = limits.OUTPUT_BYTES - limits.OUTPUT_HEAD_BYTES - len(mark) - len(str(self._count))
        mark %= self._count - limits.OUTPUT_HEAD_BYTES - room
        return bytes(self._head) + mark + self.tail(room)

    def close(self) -> None:
        """The descriptor is closed."""
        os.close(self._fd)


def cleaned(raw: bytes, *, limit: int) -> str:
    """Return the end of `raw` as text that no terminal obeys: at most `limit` bytes of UTF-8.

    Line feeds stay, every other control, bidi or zero-width character becomes `?`.
    """
    text = "".join(
        c if c == "\n" or unicodedata.category(c) not in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
        else "?"
        for c in unicodedata.normalize("NFC", raw.decode("utf-8", "replace"))
    )  # fmt: skip
    return text.encode()[-limit:].decode("utf-8", "ignore")
