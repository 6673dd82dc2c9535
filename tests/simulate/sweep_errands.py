"""A scene of the sweep: what a node writes beside installs, and what secrets are laid out.

Figures, an app's log, plaintext of secrets, orders, holds, pins, receipts that were taken, what
fetch is told, and what the last look at the releases found.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from embrasure import limits
from embrasure.errors import EmbrasureError
from embrasure.trust.floors import Union
from node import believed, credentials, drift, hold, pins
from node.metrics import Metrics
from node.orders import ORDERS, Last
from node.output import Output
from node.records import NodeRecords
from tests.simulate.faults import Faults
from tests.simulate.sweep_install import APP, InstallScene

_FIRST = 1  # the receipt that somebody takes


class ErrandsScene(InstallScene):
    """A node on which a release runs; nothing is installed, everything else is written."""

    def __init__(self, root: Path) -> None:
        super().__init__(root, "errands", held=("1.0",))

    def act(self, faults: Faults) -> str:
        wrong = []
        with self.opened(), faults:
            faults.arm()
            for errand in self._errands():
                try:
                    errand()
                except EmbrasureError as problem:
                    self.why = problem.reason
                    wrong.append(str(problem))
        return "; ".join(wrong)

    def _errands(self) -> Iterator[Callable[[], object]]:
        """Yield each; one does not need the one before."""
        paths, records = self.paths, NodeRecords(self.paths)
        yield Metrics(paths, records, clock=self._bench.clock).write
        yield self._log
        yield self._secrets
        yield lambda: Last(paths, ORDERS).keep(APP, os.urandom(8))
        yield lambda: hold.put(paths, APP, seconds=60, reason="a sweep")
        yield lambda: hold.take_away(paths, APP)
        yield lambda: pins.put(paths, APP, paths.current(APP).readlink().name)
        yield lambda: records.posted(_FIRST)
        yield lambda: believed.keep_time(paths, int.from_bytes(os.urandom(3)))
        yield lambda: believed.keep_denials(paths, None, Union(), root="0" * 64, env="prod")
        yield lambda: drift.forget(self._bench.acceptor._ground, APP)

    def _log(self) -> None:
        """A line more than the file may have; the disk costs lines, never more."""
        read_end, write_end = os.pipe()
        output = Output(read_end, self.paths.logs / f"{APP}.log")
        try:
            for _ in range(2):
                os.write(write_end, b"a line\n")
                output.take()
                output._size = limits.APP_LOG_BYTES + 1
        finally:
            os.close(write_end)
            output.close()

    def _secrets(self) -> None:
        """They are laid out whole, or not at all; then they go."""
        folder = self.paths.credentials / APP
        try:
            credentials.place(self.paths, APP, "r", {"token": b"t" * 64, "other": b"o" * 64})
            found = sorted(path.name for path in (folder / "r").iterdir())
            assert found == ["other", "token"], found
        except EmbrasureError:
            assert not (folder / "r").exists(), "a part of the secrets lies open"
            raise
        finally:
            with contextlib.suppress(EmbrasureError):
                credentials.take_away(self.paths, APP)

    def goes_on(self) -> list[str]:
        """Every errand can be run, and leaves what it should; then the next release installs."""
        for errand in self._errands():
            errand()
        (self.paths.pins).unlink()
        if not Metrics(self.paths, NodeRecords(self.paths), clock=self._bench.clock).text():
            return ["no figures"]
        return super().goes_on()

    def _chain(self) -> Iterator[str]:
        outbox = self._bench.acceptor._ground.receipts.outbox
        told = sorted(
            int(path.name[:16])
            for folder in (self.paths.outbox, self.paths.sent)
            for path in folder.glob("*.json")
        )
        if told != list(range(1, outbox.head()[0] + 1)):
            yield f"receipts are numbered {told}"
