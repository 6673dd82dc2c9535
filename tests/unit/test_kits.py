"""No process runs the kit of a key service before a key lies there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.ablation import Ablation

LOAD = """
import sys
sys.path.insert(0, sys.argv[1])
import embrasure
from embrasure import kits
if sys.argv[2] == "without":
    sys.meta_path.remove(kits._HeldBack)
import gateway.keyring, mirror.post, node.run, pki.issue
print(*(name for name in kits.KITS if name in sys.modules))
"""
TAKE = """
from securesystemslib.signer import HSMSigner, SIGNER_FOR_URI_SCHEME
from embrasure import kits
from pki import keyuri
names = vars(sys.modules["securesystemslib.signer._hsm_signer"])
print("pkcs11" in names, names["PKCS11_IMPORT_ERROR"] is None)
keyuri.check_installed("hsm")
print("pkcs11" in names, HSMSigner._find_token.__globals__ is names)
print(SIGNER_FOR_URI_SCHEME["hsm"] is HSMSigner)
"""


def printed(code: str, *words: object) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, words)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.misuse
def test_a_kit_that_somebody_planted_does_not_run_beside_our_keys(
    tmp_path: Path, ablation: Ablation
) -> None:
    ran = tmp_path / "ran"
    (tmp_path / "hvac.py").write_text(f"open({str(ran)!r}, 'w').close()\n")
    assert printed(LOAD, tmp_path, "with") == "\n"
    assert not ran.exists()
    with ablation("the modules that run as if no kit were there") as attack:
        printed(LOAD, tmp_path, "without")
        attack.succeeded(ran.exists())


def test_a_kit_is_there_once_a_key_is_in_it() -> None:
    pytest.importorskip("pkcs11", reason="needs embrasure[pkcs11]")
    held, taken, listed = printed("import sys, embrasure\n" + TAKE).splitlines()
    assert (held, taken, listed) == ("False False", "True True", "True")
