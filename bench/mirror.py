"""A mirror as a process of its own, with a simulated repository in it."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.simulate.authority import Authority
from tests.simulate.repository import SimRepository
from tests.simulate.running import PROGRAM, until
from tests.simulate.uploader import Uploader, make_service


@dataclass(frozen=True, slots=True)
class Served:
    """A mirror that runs. address: where nodes read."""

    authority: Authority
    repository: SimRepository
    address: str
    ingest: int

    def upload(self) -> None:
        """All that is published now is shown."""

        async def send() -> None:
            async with Uploader(self.authority, self.ingest) as uploader:
                await uploader.send_all(self.repository.files)

        asyncio.run(send())


@contextmanager
def served(folder: Path, authority: Authority, repository: SimRepository) -> Iterator[Served]:
    """Yield a mirror of all that is published."""
    make_service(folder, authority, repository.anchor, kind="mirror", name="m1")
    process = subprocess.Popen(
        [*PROGRAM, "mirror", "run", str(folder)], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        until((folder / "ports.json").exists, what="mirror")
        ports = json.loads((folder / "ports.json").read_text())
        found = Served(authority, repository, f"127.0.0.1:{ports['read']}", ports["ingest"])
        found.upload()
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
