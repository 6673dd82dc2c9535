"""The product's own processes, started for a test and gone at its end."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.simulate.fleet import RealNode

# What the `embrasure` script does.
PROGRAM = [sys.executable, "-c", "import sys; from embrasure.cli import main; sys.exit(main())"]
T = TypeVar("T")


def embrasure(*arguments: object, seconds: float = 60) -> subprocess.CompletedProcess[str]:
    """Return how the command ended."""
    command = [*PROGRAM, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)


def until(found: Callable[[], T | None], *, seconds: float = 20, what: str = "it") -> T:
    """Return what `found` returns once that is something.

    It is asked again after as long as it took: what starts a process leaves others half the time.
    """
    end = time.monotonic() + seconds
    while (began := time.monotonic()) < end:
        result = found()
        if result:
            return result
        time.sleep(min(1.0, max(0.02, time.monotonic() - began)))
    raise AssertionError(f"{what} did not happen in {seconds} s")


class Running:
    """One `embrasure node run` and what can be seen of it from outside."""

    def __init__(self, node: RealNode) -> None:
        self.node = node
        self.log = node.paths.prefix.with_suffix(".log")
        self._file = self.log.open("ab")
        self.process = subprocess.Popen(
            [*PROGRAM, "node", "run", "--root", str(node.paths.prefix)],
            stdin=subprocess.DEVNULL,
            stdout=self._file,
            stderr=self._file,
        )

    def is_ready(self) -> bool:
        """Whether the node says so itself."""
        if self.process.poll() is not None:
            raise AssertionError(f"node run ended:\n{self.log.read_text()}")
        return (self.node.paths.run / "ports.json").exists()

    def pid(self, module: str) -> int:
        """Return the process that runs `node.apply_main` or `node.agent`."""
        return until(lambda: self._find(module), what=module)

    def _find(self, module: str) -> int:
        for pid in children(self.process.pid):
            if module.encode() in _read(pid, "cmdline").split(b"\0"):
                return pid
        return 0

    def stop(self) -> int:
        """Return the exit code after SIGTERM."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30)

    def end(self) -> None:
        """Nothing of it runs any more."""
        if self.process.poll() is None:
            self.stop()
        self._file.close()


@contextmanager
def running(node: RealNode) -> Iterator[Running]:
    """A node that is ready; stopped at the end."""
    # One that was killed could not take back that it was ready.
    (node.paths.run / "ports.json").unlink(missing_ok=True)
    found = Running(node)
    try:
        until(found.is_ready, what="node run")
        yield found
    finally:
        found.end()


def children(pid: int) -> list[int]:
    """Return the processes that `pid` started, of whichever of its threads."""
    texts = (_read_path(path) for path in Path(f"/proc/{pid}/task").glob("*/children"))
    return [int(word) for text in texts for word in text.split()]


def peak_mib(pid: int) -> float:
    """Return the most memory that the process ever held."""
    lines = _read(pid, "status").decode().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024


def libraries(pid: int) -> str:
    """Return what is mapped into the process."""
    return _read(pid, "maps").decode()


def answers(port: int) -> str:
    """Return what the app says over HTTP, "" when nothing answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=2) as reply:
            text: str = reply.read().decode()
            return text
    except (urllib.error.URLError, OSError):
        return ""


def status(node: RealNode) -> dict[str, object]:
    """Return `node status --json`."""
    done = embrasure("node", "status", "--root", node.paths.prefix, "--json")
    found: dict[str, object] = json.loads(done.stdout)
    return found


def _read(pid: int, name: str) -> bytes:
    return _read_path(Path(f"/proc/{pid}/{name}"))


def _read_path(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
