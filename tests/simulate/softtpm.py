"""A real TPM 2.0 in software (swtpm), and its PKCS#11 library: a token that locks after wrong PINs.

SoftHSM2 never locks. A TPM counts wrong PINs itself and then refuses the right one, too, until its
owner clears the lockout.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.simulate.running import PROGRAM, until

PIN, SO_PIN, LABEL = "correct horse battery", "security officer 1", "tpm"
TRIES = 3
_MODULES = (
    "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so",
)
_SIGN = """
import sys
from pki import signers
from pki.passphrase import PassphraseSource
from pathlib import Path
signer = signers.open_signer(
    sys.argv[1], PassphraseSource(lambda _: Path(sys.argv[2]).read_bytes(), tries=1),
    purpose="security",
)
signer.public_key.verify_signature(signer.sign(b"x"), b"x")
"""
# Without a resource manager (the kernel's, on a real machine) each tool leaves an object behind.
_TOOLS = ("create", "createprimary", "evictcontrol", "import", "load", "loadexternal", "readpublic")


@dataclass(frozen=True, slots=True)
class SoftTpm:
    """A running swtpm with one token."""

    folder: Path
    module: str
    port: int

    @property
    def environment(self) -> dict[str, str]:
        """What tools and our own commands need to reach it."""
        line = f"swtpm:host=127.0.0.1,port={self.port}"
        return {
            **os.environ, "TPM2TOOLS_TCTI": line, "TPM2_PKCS11_TCTI": line, "TSS2_LOG": "all+none",
            "TPM2_PKCS11_STORE": str(self.folder / "store"), "EMBRASURE_PKCS11_MODULE": self.module,
            "EMBRASURE_KEYS": str(self.folder / "records"),
        }  # fmt: skip

    def tool(self, *arguments: str) -> None:
        """Run one of Debian's TPM tools, with Debian's own Python."""
        path = f"{self.folder / 'tools'}:/usr/bin:/bin"
        subprocess.run(
            arguments, env={**self.environment, "PATH": path}, check=True, capture_output=True,
            timeout=30,
        )  # fmt: skip

    def flush(self) -> None:
        """The TPM has no leftovers of an earlier process."""
        self.tool("tpm2_flushcontext", "-t")

    def prepare(self) -> None:
        """There is a token with a PIN and one P-256 key, which locks after `TRIES` wrong PINs."""
        tools = self.folder / "tools"
        tools.mkdir()
        for name in _TOOLS:
            tool = tools / f"tpm2_{name}"
            tool.write_text(
                f'#!/bin/sh\n/usr/bin/tpm2_{name} "$@"; code=$?\n'
                "/usr/bin/tpm2_flushcontext -t >/dev/null 2>&1\nexit $code\n"
            )
            tool.chmod(0o755)
        (self.folder / "store").mkdir()
        self.tool("tpm2_ptool", "init")
        self.tool("tpm2_ptool", "addtoken", "--pid=1", f"--label={LABEL}", f"--sopin={SO_PIN}",
                  f"--userpin={PIN}")  # fmt: skip
        self.tool("tpm2_ptool", "addkey", "--algorithm=ecc256", f"--label={LABEL}", "--id=2",
                  f"--userpin={PIN}")  # fmt: skip
        # No try comes back by itself while a test runs.
        self.tool("tpm2_dictionarylockout", "-s", "-n", str(TRIES), "-t", "9999", "-l", "9999")

    def unlock(self) -> None:
        """The owner of the TPM has cleared its lockout."""
        self.tool("tpm2_dictionarylockout", "-c")

    def embrasure(self, *arguments: object) -> subprocess.CompletedProcess[str]:
        """Return how a command of ours ended."""
        return self._run(*PROGRAM, *map(str, arguments))

    def signs(self, uri: str, pin: Path) -> str:
        """Return "" when the key at `uri` signed with the PIN in a file, else the last line."""
        done = self._run(sys.executable, "-c", _SIGN, uri, str(pin))
        return done.stderr.strip().splitlines()[-1] if done.returncode else ""

    def _run(self, *command: str) -> subprocess.CompletedProcess[str]:
        self.flush()
        return subprocess.run(
            command, env=self.environment, capture_output=True, text=True, timeout=60, check=False
        )


@pytest.fixture
def softtpm(tmp_path: Path) -> Iterator[SoftTpm]:
    """A TPM of this test alone."""
    module = next((place for place in _MODULES if Path(place).exists()), "")
    if not module or not shutil.which("swtpm") or not shutil.which("tpm2_flushcontext"):
        pytest.skip("needs Debian's swtpm, libtpm2-pkcs11-1, libtpm2-pkcs11-tools, tpm2-tools")
    state = tmp_path / "tpm"
    state.mkdir()
    port = _two_ports()
    process = subprocess.Popen(
        ["swtpm", "socket", "--tpm2", "--tpmstate", f"dir={state}",
         "--server", f"type=tcp,port={port},bindaddr=127.0.0.1",
         "--ctrl", f"type=tcp,port={port + 1},bindaddr=127.0.0.1",
         "--flags", "not-need-init,startup-clear"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        found = SoftTpm(tmp_path, module, port)
        until(lambda: _answers(port + 1), what="swtpm")
        found.prepare()
        yield found
    finally:
        process.terminate()
        process.wait(10)


def _two_ports() -> int:
    """Return a free port whose next one is free: the library looks for the control port there."""
    while True:
        with socket.create_server(("127.0.0.1", 0)) as first:
            port = int(first.getsockname()[1])
            try:
                socket.create_server(("127.0.0.1", port + 1)).close()
            except OSError:
                continue
        return port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True
