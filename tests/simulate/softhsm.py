"""Real PKCS#11 tokens: SoftHSM2 with a store of its own, so that no test sees another's tokens."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pki.keyuri import TokenUri

PIN, SO_PIN = b"correct horse battery", b"security officer 1"
_PLACES = ("/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
           "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so")  # fmt: skip


def module() -> str:
    """Return the library's path; without Debian's softhsm2 the test is skipped."""
    found = next((place for place in _PLACES if Path(place).exists()), None)
    if found is None:
        pytest.skip("needs Debian's softhsm2")
    return found


@dataclass(frozen=True, slots=True)
class SoftHsm:
    """The tokens of one test session. folder: holds their store and configuration."""

    folder: Path
    module: str

    @property
    def environment(self) -> dict[str, str]:
        """What a child process needs to see these tokens."""
        return {
            "SOFTHSM2_CONF": str(self.folder / "softhsm2.conf"),
            "EMBRASURE_PKCS11_MODULE": self.module,
        }

    def token(self, label: str, *, pin: bytes = PIN) -> str:
        """A new token of this label is there; return the label."""
        subprocess.run(
            ["softhsm2-util", "--init-token", "--free", "--label", label,
             "--so-pin", SO_PIN.decode(), "--pin", pin.decode()],
            env={**os.environ, **self.environment}, check=True, capture_output=True, timeout=20,
        )  # fmt: skip
        # A library that is loaded already has counted its slots.
        import pkcs11

        pkcs11.lib(self.module).reinitialize()
        return label

    def uri(self, label: str, number: int = 2) -> TokenUri:
        """Return the URI of a key in one of these tokens."""
        return TokenUri(number, label, self.module)


@pytest.fixture(scope="session")
def softhsm_session(tmp_path_factory: pytest.TempPathFactory) -> SoftHsm:
    """An empty SoftHSM2 for this test session (of one process); see `hsm`."""
    found = SoftHsm(tmp_path_factory.mktemp("softhsm"), module())
    (found.folder / "tokens").mkdir()
    (found.folder / "softhsm2.conf").write_text(
        f"directories.tokendir = {found.folder}/tokens\n"
        "objectstore.backend = file\nlog.level = ERROR\n"
    )
    return found


@pytest.fixture
def hsm(softhsm_session: SoftHsm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SoftHsm:
    """The session's SoftHSM2, named by the environment; key records in a folder of the test."""
    for name, value in softhsm_session.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("EMBRASURE_KEYS", str(tmp_path / "key-records"))
    return softhsm_session
