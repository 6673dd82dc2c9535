"""Every bad input of tests/vectors/door through the real door, over the real socket, onto a node
on which version 1.0 runs: refused as its file says, told, nothing changed, and the next honest
release installs. The same input comes once more with the guard of its file taken away, and whatever
checks the same `again` behind it: then the door answers as `then` says, and the attacker has got
what the test looks for.

Here the manifests that k operators signed; what comes over the network and what happens on the
node's own disk are in `test_bad_input_network.py` and `test_bad_input_disk.py`.
"""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator, Mapping
from contextlib import closing
from typing import Any

import pytest

from embrasure.trust import canonical
from tests.ablation import Ablation
from tests.simulate.badinput import FOLDER, VECTORS, Door, Vector, logged, names_of, of, refused
from tests.simulate.guards import found, take_away
from tests.simulate.releases import SimRelease
from tests.source import TOP

pytestmark = [pytest.mark.long, pytest.mark.timeout(120)]
ROWS = 30
# Where a row has more than vectors: B30 is also the sweep with a full disk at every operation.
ELSEWHERE = {30: "tests/integration/test_node_full.py"}


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with closing(Door(tmp_path_factory.mktemp("door"))) as found:
        yield found


def test_every_row_has_its_vectors() -> None:
    rows = {int(vector["id"][1:3]) for vector in VECTORS}
    assert rows | ELSEWHERE.keys() == set(range(1, ROWS + 1))
    for vector in VECTORS:
        assert (FOLDER / f"{vector['id']}.json").exists()
        assert vector["title"] and vector["source"] and vector["expected"]["answer"]
        # Whoever renames a guard renames it here, too: it is what is taken away below.
        assert all(callable(one) or isinstance(one, int) for one in map(found, names_of(vector)))
    for path in ELSEWHERE.values():
        assert "pytest.mark.misuse" in (TOP / path).read_text()


def manifest_of(vector: Vector, base: SimRelease) -> tuple[bytes, SimRelease]:
    """Return the bytes of the vector's manifest, and the release with blobs for all its files."""
    wish = vector["input"]["manifest"]
    blobs = dict(base.blobs)
    if "raw" in wish:
        return wish["raw"].encode(), base
    if "pad" in wish:
        return base.raw + b" " * (wish["pad"] - len(base.raw)), base
    if "twin" in wish:
        name = f'"{wish["twin"]}":'.encode()
        return base.raw.replace(name, name + b'"0",' + name), base
    whole = json.loads(base.raw)
    for number in range(wish.get("many", 0)):
        whole["files"].append(entry_of({"path": f"code/{number:07}", "kind": "file", "mode": "0444",
                                        "data": ""}, blobs))  # fmt: skip
    whole["files"] += [entry_of(one, blobs) for one in wish.get("files", ())]
    whole["files"].sort(key=lambda one: one["path"])
    whole.update(wish.get("changes", {}))
    return canonical.canonical(whole), SimRelease(base.manifest, base.raw, base.digest, blobs)


def entry_of(wish: Mapping[str, Any], blobs: dict[str, bytes]) -> dict[str, Any]:
    data = (wish.get("target") or wish.get("data", "")).encode()
    digest = canonical.sha256_hex(data)
    if wish["kind"] == "file":
        blobs[digest] = data
    made = {"target": None, **wish, "length": len(data), "sha256": digest}
    made.pop("data", None)
    return made


@pytest.mark.misuse
@pytest.mark.parametrize("vector", of("manifest"))
def test_a_hostile_manifest(
    door: Door, vector: Vector, caplog: pytest.LogCaptureFixture, ablation: Ablation
) -> None:
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    with refused(door, vector, caplog) as say:
        say(door.poll())
    door.honest()
    door.publish(raw, release)
    caplog.clear()
    with ablation(str(vector["without"]["guard"])) as attack:
        take_away(attack, *names_of(vector))
        if vector["without"]["then"] == "install":  # the verdict: its files are too many for a test
            attack.succeeded(door.decides() == "install")
        else:
            assert door.poll() == vector["without"]["then"]
            attack.succeeded(gained(door, vector, raw, caplog))


def gained(door: Door, vector: Vector, raw: bytes, caplog: pytest.LogCaptureFixture) -> bool:
    """Return whether the attacker got what he has without the guard.

    Installed: each entry of his lies in the release that runs, as he wanted it. Stopped further
    on: the node had begun with this very manifest, and only what is `behind` ended that.
    """
    wish, wanted = vector["input"]["manifest"], vector["without"]
    record = door.bench.acceptor._ground.journal.read("shop").record
    is_his = record is not None and record.to.manifest == canonical.sha256_hex(raw)
    if "prints" in wish:
        logs = [path.read_text() for path in door.paths.logs.rglob("*") if path.is_file()]
        assert any(wish["prints"] in log for log in logs), "his command ran"
    if record is None or wanted["then"] != "committed":
        said = [record.detail] if record is not None and is_his else logged(caplog)
        return any(wanted["behind"] in one for one in said) and (
            is_his or wanted["then"] == vector["expected"]["answer"]
        )
    for entry in wish.get("files", ()):
        path = door.paths.current("shop") / entry["path"]
        if entry["kind"] == "link":
            assert str(path.readlink()) == entry["target"]
        else:
            assert stat.S_IMODE(path.lstat().st_mode) == int(entry["mode"], 8)
            assert path.read_bytes() == entry["data"].encode()
    return is_his


@pytest.mark.parametrize("vector", of("manifest", refused=False))
def test_a_manifest_that_only_looks_hostile(door: Door, vector: Vector) -> None:
    beside = {path: path.lstat().st_mtime_ns for path in door.paths.prefix.parent.iterdir()}
    raw, release = manifest_of(vector, door.bench.make("6.6"))
    door.publish(raw, release)
    assert door.poll() == vector["expected"]["answer"]
    assert beside == {path: path.lstat().st_mtime_ns for path in door.paths.prefix.parent.iterdir()}
    for wish in vector["input"]["manifest"]["files"]:
        assert (door.paths.current("shop") / wish["path"]).read_bytes() == wish["data"].encode()
    door.honest()
