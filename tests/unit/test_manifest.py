from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embrasure.bundle.manifest import Entry, parse_manifest
from embrasure.bundle.paths import check_path, check_tree
from embrasure.errors import EmbrasureError, NotSupported, Refused
from embrasure.trust.canonical import canonical, sha256_hex
from tests.ablation import Ablation


class Vector(TypedDict):
    id: str
    why: str
    outcome: str
    files: list[dict[str, Any]]  # whatever a vector says, wrong types included


class Vectors(TypedDict):
    about: str
    vectors: list[Vector]


VECTORS: Vectors = json.loads(
    (Path(__file__).parent.parent / "vectors" / "manifest.json").read_text()
)


def manifest(**changes: object) -> dict[str, object]:
    probe = {"kind": "tcp", "port": "web", "interval_ms": 100, "timeout_ms": 100, "start_s": 5,
             "passes": 1}  # fmt: skip
    whole: dict[str, object] = {
        "v": 1, "type": "manifest", "app": "shop", "version": "1.0", "files": [],
        "run": {"argv": ["python3", "code/main.py"], "env": {}, "ports": ["web"]},
        "hooks": [], "probes": [probe], "confirm": "probes", "requires": [], "secrets": [],
        "irreversible": False, "origin": {"builder": "", "revision": "", "time": ""},
    }  # fmt: skip
    return {**whole, **changes}


def outcome(**changes: object) -> str:
    try:
        parse_manifest(canonical(manifest(**changes)))
    except EmbrasureError as refusal:
        return refusal.reason
    return "ok"


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda v: v["id"])
def test_each_tree_comes_out_as_its_vector_says(vector: Vector) -> None:
    assert set(vector) == {"id", "why", "outcome", "files"}
    assert outcome(files=vector["files"]) == vector["outcome"]


MIGRATE = {"point": "migrate", "argv": ["python3"], "timeout_s": 1}
REVERT = {"point": "revert", "argv": ["python3"], "timeout_s": 1}


@pytest.mark.misuse
def test_without_the_tree_rule_every_bad_tree_of_good_form_passes(
    ablation: Ablation,
) -> None:
    bad = [v for v in VECTORS["vectors"] if v["outcome"] not in ("ok", "bad-schema")]
    assert len(bad) > 25
    assert all(outcome(files=v["files"]) == v["outcome"] for v in bad)
    with ablation("the rule for trees") as attack:
        attack.without("embrasure.bundle.manifest.check_tree")
        attack.succeeded({outcome(files=v["files"]) for v in bad} == {"ok"})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"requires": [{"app": "db", "min_seq": 1}]}, "not-supported"),
        ({"secrets": [{"name": "x", "min_version": 1, "mode": "0444"}]}, "bad-mode"),
        ({"secrets": [{"name": "x", "min_version": 1, "mode": "0400"}] * 2}, "duplicate"),
        ({"secrets": [{"name": "../x", "min_version": 1, "mode": "0400"}]}, "bad-schema"),
        ({"irreversible": True}, "migration"),
        ({"hooks": [MIGRATE]}, "migration"),
        ({"hooks": [MIGRATE, REVERT], "irreversible": True}, "migration"),
        ({"hooks": [MIGRATE, REVERT]}, "ok"),
        ({"hooks": [MIGRATE], "irreversible": True}, "ok"),
        ({"probes": []}, "bad-schema"),
        ({"run": {"argv": ["/bin/sh", "-c", "id"], "env": {}, "ports": ["web"]}}, "not-declared"),
        ({"run": {"argv": ["code/main"], "env": {}, "ports": ["web"]}}, "not-declared"),
        ({"run": {"argv": ["python3"], "env": {}, "ports": []}}, "not-declared"),
        ({"run": {"argv": [], "env": {}, "ports": ["web"]}}, "bad-schema"),
        ({"run": {"argv": ["a"] * 17, "env": {}, "ports": ["web"]}}, "bad-schema"),
        ({"hooks": [{"point": "migrate", "argv": ["sh -c id;"], "timeout_s": 1}]}, "not-declared"),
        ({"hooks": [{"point": "boot", "argv": ["python3"], "timeout_s": 1}]}, "bad-schema"),
        ({"version": "1 0"}, "bad-schema"),
        ({"extra": 1}, "bad-schema"),
    ],
)
def test_what_no_rule_covers_is_refused_never_ignored(
    changes: dict[str, object], expected: str
) -> None:
    assert outcome(**changes) == expected


@pytest.mark.misuse
def test_a_field_without_a_rule_would_be_ignored_without_its_check(
    ablation: Ablation,
) -> None:
    raw = canonical(manifest(requires=[{"app": "db", "min_seq": 1}]))
    with pytest.raises(NotSupported):
        parse_manifest(raw)
    with ablation("the refusal of fields without a rule") as attack:
        attack.without("embrasure.bundle.manifest.check_unused")
        attack.succeeded(parse_manifest(raw).requires)


@given(st.text(max_size=40))
def test_a_path_that_passes_stays_inside_its_release(text: str) -> None:
    try:
        parts = check_path(f"code/{text}")
    except Refused:
        return
    joined = Path("/release").joinpath(*parts)
    assert joined.is_relative_to("/release/code")
    assert not {"", ".", ".."} & set(parts)


@given(
    st.lists(
        st.builds(
            Entry,
            path=st.sampled_from(["code/a", "code/b", "code/a/b", "code/A", "config/a"]),
            kind=st.sampled_from(["file", "link", "dir"]),
            mode=st.sampled_from(["0444", "0555", "0777"]),
            length=st.integers(0, 3),
            sha256=st.just("ab" * 32),
            target=st.sampled_from([None, "a", "../config/a"]),
        ),
        max_size=4,
    )
)
def test_the_tree_rule_raises_only_refused(files: list[Entry]) -> None:
    try:
        check_tree(tuple(files))
    except Refused:
        return
    assert [e.path for e in files] == sorted({e.path for e in files})


@given(st.binary(max_size=300))
def test_random_bytes_are_no_manifest(raw: bytes) -> None:
    with pytest.raises(EmbrasureError):
        parse_manifest(raw)


def test_the_time_of_a_tree_of_links_rises_with_their_number_and_no_faster() -> None:
    # What one operator uploads, the gateway and every approver parse before anybody has signed.
    def cost(count: int) -> float:
        digest = sha256_hex(b"a")
        file = Entry(path="code/a", kind="file", mode="0444", length=1, sha256=digest, target=None)
        links = [
            Entry(
                path=f"code/b{n:05}", kind="link", mode="0777", length=1, sha256=digest, target="a"
            )
            for n in range(count)
        ]
        began = time.process_time()
        check_tree((file, *links))
        return time.process_time() - began

    assert cost(16_000) < 1.5  # 0.2 s; with a set made anew for each link 4.5 s
