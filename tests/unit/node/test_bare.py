"""A node's processes load no kit of a key service, wherever it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from node.bare import KITS

CODE = """
import sys
from embrasure import kits
from node import bare
sys.meta_path.remove(kits._HeldBack)  # the barrier of every process
if sys.argv[1] == "bare":
    bare.leave_out()
import node.agent, node.apply_main, node.pull, node.push
print(*(name for name in bare.KITS if sys.modules.get(name)))
"""


def loaded(how: str) -> set[str]:
    """Return which kits are in a new process that has imported all of a node."""
    done = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_no_kit_is_loaded_though_it_is_installed() -> None:
    assert loaded("bare") == set()
    there = loaded("all")
    if not there:
        pytest.skip("needs a kit of a key service")
    assert there <= set(KITS)


def test_the_processes_leave_them_out_first() -> None:
    for module in ("node.apply_main", "node.agent"):
        done = subprocess.run(
            [sys.executable, "-X", "importtime", "-I", "-m", module, "/nowhere", "0"],
            capture_output=True, text=True,
        )  # fmt: skip
        assert "node.bare" in done.stderr
        assert not {"botocore.session", "hvac.v1", "pkcs11.constants"} & {
            line.rpartition("|")[2].strip() for line in done.stderr.splitlines()
        }


def test_apply_loads_no_way_to_the_network() -> None:
    code = """
import sys
from node import bare
bare.leave_out()
import node.apply_main
print(*sorted({name.partition(".")[0] for name in sys.modules} & {"urllib3", "ssl", "grpc"}))
from tuf.ngclient import UpdaterConfig
from tuf.ngclient.updater import Urllib3Fetcher
from embrasure.errors import Failed
try: Urllib3Fetcher(app_user_agent=None)
except Failed as problem: print(problem.reason)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["internal"], done.stderr
