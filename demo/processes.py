"""Start the product's own commands as processes, and stop every one of them by its pid."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from embrasure.errors import Failed

# Isolated (-I): a folder named `node` in the working directory must not shadow ours.
EMBRASURE = (sys.executable, "-I", "-c", "from embrasure.cli import main; raise SystemExit(main())")


@dataclass(frozen=True, slots=True)
class Result:
    """How one command ended."""

    code: int
    out: str
    err: str

    def json(self) -> dict[str, object]:
        """Return what it printed under `--json`."""
        found: dict[str, object] = json.loads(self.out)
        return found


@dataclass(slots=True)
class Service:
    """One long-running process and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    def kill(self) -> None:
        """End it with SIGKILL, as a crash would."""
        self.process.kill()
        self.process.wait(timeout=10)

    def stop(self, seconds: float = 20.0) -> None:
        """End it with SIGTERM, and its whole group with SIGKILL when it does not."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(timeout=seconds)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(timeout=10)

    def tail(self, lines: int = 15) -> str:
        """Return the end of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


@dataclass(slots=True)
class Processes:
    """All processes of one demo; its folder holds their logs."""

    folder: Path
    services: list[Service] = field(default_factory=list)

    def run(
        self, *arguments: str | Path, context: Path | None = None, timeout: float = 60
    ) -> Result:
        """Run one `embrasure` command to its end and return how it ended."""
        words = [*EMBRASURE, *map(str, arguments)]
        if context is not None:
            words += ["--context", str(context)]
        done = subprocess.run(  # noqa: S603 - our own command, an argument list
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, text=True,
            env=_environment(), cwd=self.folder, check=False,
        )  # fmt: skip
        return Result(done.returncode, done.stdout, done.stderr)

    def must(
        self, *arguments: str | Path, context: Path | None = None, timeout: float = 60
    ) -> Result:
        """Run one command that has to succeed; raises Failed with what it said."""
        result = self.run(*arguments, context=context, timeout=timeout)
        if result.code:
            words = " ".join(map(str, arguments[:3]))
            raise Failed(
                f"embrasure {words}", expected="exit 0", got=f"exit {result.code}",
                untouched="the demo stops here", hint=result.err.strip()[-600:],
            )  # fmt: skip
        return result

    def start(self, name: str, *arguments: str | Path) -> Service:
        """Start one `embrasure` service in its own process group, with its log in the folder."""
        log = self.folder / f"{name}.log"
        with log.open("ab") as out:
            process = subprocess.Popen(  # noqa: S603 - our own command, an argument list
                [*EMBRASURE, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=out,
                stderr=out, env=_environment(), cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        service = Service(name, process, log)
        self.services.append(service)
        return service

    def stop_all(self) -> None:
        """Stop every service that still runs, all at once, nodes and gateway alike."""
        living = [service for service in self.services if service.process.poll() is None]
        for service in living:
            service.process.terminate()
        for service in living:
            service.stop()

    def wait_file(self, path: Path, service: Service, seconds: float = 30) -> dict[str, object]:
        """Return the JSON object in `path` once the service has written it; raises Failed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if path.exists():
                found: dict[str, object] = json.loads(path.read_bytes())
                return found
            if service.process.poll() is not None:
                break
            time.sleep(0.05)
        raise Failed(
            service.name, expected="a running service", got="none", untouched="the demo stops here",
            hint=f"its log ends with:\n{service.tail()}",
        )  # fmt: skip


def _environment() -> dict[str, str]:
    """Return the variables that a command needs; nothing of ours that could name a context."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBRASURE_")}
    return {**kept, "PYTHONDONTWRITEBYTECODE": "1", "GRPC_VERBOSITY": "NONE"}
