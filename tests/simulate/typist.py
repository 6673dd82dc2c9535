"""Types the commands of a page, one process each, and stops every service by its pid.

Nothing is asked: secrets, key costs and confirmations come as options; ports and printed words are
put in the place of those that the page shows.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from demo.processes import EMBRASURE

TOP = Path(__file__).resolve().parent.parent.parent
PASSPHRASE = "a passphrase of nothing worth stealing"  # noqa: S105 - of keys made for tests
_OPENS = ("--sign", "--key", "--generate", "approve", "propose", "gateway run", "pki init",
          "pki issue", "pki online", "env add", "keys generate", "hsm generate")  # fmt: skip
_COSTS = ("keys generate", "pki init", "env add", "app add", "online rotate")


def commands(page: str) -> list[str]:
    """Return the commands of the shell blocks of a page, in order."""
    found = re.findall(r"```sh\n(.*?)```", page, re.S)
    return [line for block in found for line in block.splitlines() if line.strip()]


@dataclass
class Typist:
    """One folder in which commands are typed. words: what stands on the page -> what is typed."""

    folder: Path
    environment: Mapping[str, str]
    words: dict[str, str]
    services: list[subprocess.Popen[bytes]] = field(default_factory=list)
    typed: int = 0

    def type(self, line: str) -> dict[str, Any]:
        """Return what one line of the page printed as JSON; a service is left running."""
        # In one pass and whole words only: a port may hold the digits of another.
        marks = "|".join(re.escape(word) for word in sorted(self.words, key=len, reverse=True))
        pattern = rf"(?<![\w-])(?:{marks})(?![\w-])"
        line = re.sub(pattern, lambda match: self.words[match[0]], line)
        words = shlex.split(line)
        self.typed += 1
        if words[0] != "embrasure":
            self._run(["bash", "-c", line])
            return {}
        words = words[1:] + self._options(" ".join(words[1:]))
        if words[1] == "run":
            self._serve(words)
            return {}
        out = self._run([*EMBRASURE, *words, "--json"])
        found: dict[str, Any] = json.loads(out.splitlines()[-1]) if out.strip() else {}
        self._learn(words, found)
        return found

    def ask(self, *words: str) -> dict[str, Any]:
        """Return what a command that is not on the page printed."""
        found: dict[str, Any] = json.loads(self._run([*EMBRASURE, *words, "--json"]))
        return found

    def version_at(self, port: str, *, seconds: float = 60, wanted: str = "") -> str:
        """Return which release answers at a port of the page, once it is the wanted one."""
        end, found = time.monotonic() + seconds, ""
        while time.monotonic() < end:
            try:
                url = f"http://127.0.0.1:{self.words[port]}/health"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    found = str(json.loads(answer.read())["version"])
            except OSError:
                found = ""
            if found and wanted in ("", found):
                break
            time.sleep(0.2)
        return found

    def stop(self) -> None:
        """Every service that was started has ended."""
        for service in self.services:
            service.terminate()
        for service in self.services:
            try:
                service.wait(timeout=20)
            except subprocess.TimeoutExpired:
                service.kill()
                service.wait(timeout=10)

    def _options(self, line: str) -> list[str]:
        found: list[str] = []
        if any(mark in line for mark in _OPENS):
            found += ["--passphrase-file", str(self.folder.parent / "passphrase")]
        if any(mark in line for mark in _COSTS):
            found += ["--kdf", "moderate"]
        if line.startswith("approve"):
            found += ["--confirm-digest", self.words["PLAN"]]
        if line.startswith("trust sign"):
            # Who rehearses reads every draft and confirms each by its whole digest.
            place = self.folder / line.split()[2]
            drafts = place / "drafts" if (place / "drafts").is_dir() else place
            for file in sorted(drafts.glob("*/metadata.json")):
                found += ["--confirm-digest", _digest(file)]
        return found

    def _learn(self, words: list[str], found: dict[str, Any]) -> None:
        """Keep what the page says is printed."""
        if words[:2] == ["node", "init"]:
            root = words[words.index("--root") + 1]
            self.words[f"NODE-{root.upper()}"] = str(found["node"])
        if words[:2] == ["release", "propose"]:
            self.words["ID"], self.words["PLAN"] = (
                str(found["id"]),
                str(found["plan"]).removeprefix("sha256:"),
            )

    def _run(self, words: list[str]) -> str:
        done = subprocess.run(
            words, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, text=True,
            env=dict(self.environment), cwd=self.folder, check=False,
        )  # fmt: skip
        shown = " ".join(words[len(EMBRASURE) :] if words[0] == sys.executable else words)
        assert done.returncode == 0, f"{shown}\n{done.stderr[-3000:]}"
        return done.stdout

    def _serve(self, words: list[str]) -> None:
        place = words[words.index("--root") + 1] if "--root" in words else words[2]
        log = (self.folder / f"{place}.log").open("ab")
        with log:
            service = subprocess.Popen(
                [*EMBRASURE, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=dict(self.environment), cwd=self.folder, start_new_session=True,
            )  # fmt: skip
        self.services.append(service)
        below = "run/embrasure/ports.json" if words[0] == "node" else "ports.json"
        end = time.monotonic() + 60
        while not (self.folder / place / below).exists():
            said = (self.folder / f"{place}.log").read_text(errors="replace")
            assert service.poll() is None and time.monotonic() < end, said[-2000:]
            time.sleep(0.05)


def _digest(metadata: Path) -> str:
    from pki import store

    role = metadata.parent.name
    return store.signed_digest(store.parse_metadata(metadata.read_bytes(), role))


def environment(folder: Path, extra: Mapping[str, str]) -> dict[str, str]:
    """Return what each command needs: no context of ours, key records in the folder."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("EMBRASURE_")}
    return {
        **kept,
        **extra,
        "EMBRASURE_KEYS": str(folder / "key-records"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "GRPC_VERBOSITY": "NONE",
    }
