"""The difference of two releases: nothing that matters is hidden, nothing can act on a terminal."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from embrasure import cli
from embrasure.bundle.build import build, write_bundle
from embrasure.bundle.diff import Diff, FieldChange, FileChange, diff, render
from embrasure.bundle.manifest import ExecProbe, Hook, Manifest
from embrasure.errors import MAX_SHOWN, shown
from tests.ablation import Ablation
from tests.simulate.apps import FILES, make_app


@pytest.fixture
def old(tmp_path: Path) -> Manifest:
    return build(make_app(tmp_path / "old")).manifest


def changed(manifest: Manifest, **fields: object) -> Manifest:
    return msgspec.structs.replace(manifest, **fields)


def with_files(tmp_path: Path, files: dict[str, bytes]) -> Manifest:
    return build(make_app(tmp_path / "new", files=files)).manifest


def names(found: Diff) -> list[str]:
    return [change.name for change in found.fields]


def test_a_release_does_not_differ_from_itself(old: Manifest) -> None:
    found = diff(old, old)
    assert found.is_empty and found.unchanged == len(FILES)
    assert render(found).startswith("files: no change, 4 unchanged")


def test_the_first_release_is_all_new(old: Manifest) -> None:
    found = diff(None, old)
    assert len(found.of_kind("added")) == len(FILES) and found.unchanged == 0
    assert "run.argv" in names(found) and "probe 1" in names(found)
    assert all(change.old is None for change in found.fields)


def test_files_are_added_changed_and_removed(old: Manifest, tmp_path: Path) -> None:
    files = dict(FILES)
    files["code/main.py"] = b"print('other')\n"
    files["code/new.py"] = b""
    del files["config/shop.toml"]
    found = diff(old, with_files(tmp_path, files))
    assert [c.path for c in found.of_kind("added")] == ["code/new.py"]
    assert [c.path for c in found.of_kind("changed")] == ["code/main.py"]
    assert [c.path for c in found.of_kind("removed")] == ["config/shop.toml"]
    assert "files: 1 added, 1 changed, 1 removed, 2 unchanged" in render(found)


def test_every_field_that_runs_something_is_shown(old: Manifest) -> None:
    probe = ExecProbe(
        argv=("code/bin/migrate",), interval_ms=100, timeout_ms=100, start_s=1, passes=1
    )
    new = changed(
        old,
        version="1.1",
        run=changed_run(old, argv=("code/bin/migrate",), env={"LD_PRELOAD": "x.so"}, ports=()),
        hooks=(Hook(point="migrate", argv=("code/bin/migrate", "--all"), timeout_s=5),),
        probes=(probe,),
        irreversible=True,
    )
    found = diff(old, new)
    assert names(found) == [
        "version",
        "run.argv",
        "run.env.LD_PRELOAD",
        "run.ports",
        "hook migrate",
        "probe 1",
        "irreversible",
        "run.env.GREETING",
    ]
    text = render(found)
    assert '- run.argv: ["python3","code/main.py"]' in text
    assert '+ run.argv: ["code/bin/migrate"]' in text
    assert '+ run.env.LD_PRELOAD: "x.so"' in text and "- run.env.GREETING" in text
    assert '"--all"' in text and '"kind":"exec"' in text


def changed_run(manifest: Manifest, **fields: object) -> object:
    return msgspec.structs.replace(manifest.run, **fields)


def test_every_field_of_the_manifest_can_show_in_the_difference(old: Manifest) -> None:
    # A field added to the format later must not be approved unseen.
    shown = {"app", "version", "files", "run", "hooks", "probes", "confirm", "requires",
             "secrets", "irreversible", "origin"}  # fmt: skip
    assert shown | {"v", "type"} == {field.name for field in msgspec.structs.fields(Manifest)}


def test_what_can_run_is_never_cut_first(old: Manifest, tmp_path: Path) -> None:
    files = dict(FILES) | {f"code/a{n:03}.txt": b"%d" % n for n in range(200)}
    files["code/zzz/bin/backdoor"] = b"#!/bin/sh\n"
    files["code/main.py"] = b"evil"
    text = render(diff(old, with_files(tmp_path, files)), most=3)
    assert "code/zzz/bin/backdoor (file, mode 0555, 10 bytes) !" in text
    assert "~ code/main.py" in text and text.count("code/a") == 1
    assert "... 199 added not shown" in text
    assert "201 added" in text, "the counts are whole"


def test_a_mode_that_becomes_executable_is_marked(old: Manifest, tmp_path: Path) -> None:
    app = make_app(tmp_path / "new")
    (app / "code" / "lib" / "shop.py").chmod(0o755)
    text = render(diff(old, build(app).manifest))
    assert "~ code/lib/shop.py (mode 0444 -> 0555) !" in text


def test_a_link_that_points_elsewhere_is_told_with_both_targets(tmp_path: Path) -> None:
    apps = [make_app(tmp_path / name) for name in ("a", "b")]
    for app, target in zip(apps, ("main.py", "lib/shop.py"), strict=True):
        (app / "code" / "link").symlink_to(target)
    first, second = (build(app).manifest for app in apps)
    assert "~ code/link (link to lib/shop.py, was main.py) !" in render(diff(first, second))


@pytest.mark.misuse
def test_two_long_commands_that_differ_beyond_the_cut_do_not_look_the_same(
    old: Manifest, ablation: Ablation
) -> None:
    padding = "x" * (2 * MAX_SHOWN)
    good = changed(old, run=changed_run(old, argv=("python3", padding, "good")))
    evil = changed(old, run=changed_run(old, argv=("python3", padding, "evil")))
    lines = [line for line in render(diff(good, evil)).splitlines() if "run.argv" in line]
    assert len(lines) == 2 and lines[0][1:] != lines[1][1:]
    assert all("characters) sha256:" in line for line in lines)
    with ablation("the digest behind the cut") as attack:
        attack.succeeded(shown(list(good.run.argv)) == shown(list(evil.run.argv)))


@pytest.mark.misuse
@pytest.mark.parametrize("evil", ["\x1b[2K", "\n+ all is well", "\u202e", "\r", "\x00"])
def test_outside_text_cannot_paint_the_screen_of_an_approver(evil: str, ablation: Ablation) -> None:
    found = Diff(
        fields=(FieldChange(f"run.env.A{evil}", f"old{evil}", f"new{evil}"),),
        files=(FileChange(f"code/{evil}", None, None),),
        unchanged=0,
        old_bytes=0,
        new_bytes=0,
    )
    text = render(found)
    assert evil not in text
    assert len(text.splitlines()) == 4
    with ablation("the rendering of outside text") as attack:
        attack.without("embrasure.bundle.diff.shown", lambda text, *_, **__: text)
        attack.succeeded(evil in render(found))


def run(*arguments: str | Path) -> int:
    return cli.main([str(argument) for argument in arguments])


def test_the_four_verbs_on_a_real_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    app = make_app(tmp_path / "app")
    (app / "README").write_bytes(b"")
    assert run("release", "build", app, "--out", tmp_path / "one", "--json") == 0
    found = capsys.readouterr()
    built = json.loads(found.out)
    assert (built["schema"], built["files"], built["new"]) == ("embrasure.release.build/1", 4, True)
    assert found.err == "not shipped: README\n"

    assert run("release", "inspect", tmp_path / "one", "--files", "--json") == 0
    inspected = json.loads(capsys.readouterr().out)
    assert inspected["digest"] == built["digest"] and len(inspected["files"]) == 4
    assert run("release", "inspect", tmp_path / "one", "--files") == 0
    assert "0555" in capsys.readouterr().out

    assert run("release", "verify", tmp_path / "one", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unnamed"] == []
    assert run("release", "verify", tmp_path / "one") == 0
    assert "4 blobs" in capsys.readouterr().out

    assert run("release", "build", app, "--version", "2", "--out", tmp_path / "two") == 0
    assert run("release", "diff", tmp_path / "one", tmp_path / "two", "--json") == 0
    body = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert body["fields"] == [{"name": "version", "old": "1.0", "new": "2"}]
    assert run("release", "diff", tmp_path / "one", tmp_path / "two") == 0
    assert "+ version: 2" in capsys.readouterr().out


def test_a_spoilt_bundle_ends_with_four(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    built = build(make_app(tmp_path / "app"))
    write_bundle(built, tmp_path / "out")
    digest = next(iter(built.sources))
    blob = tmp_path / "out" / "blobs" / digest[:2] / digest
    blob.chmod(0o644)
    blob.write_bytes(b"x" * blob.stat().st_size)
    assert run("release", "verify", tmp_path / "out") == 4
    assert "[E_BAD_HASH]" in capsys.readouterr().err
    manifest = tmp_path / "out" / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"code/main.py", b"../x/main.py"))
    for verb in ("verify", "inspect"):
        assert run("release", verb, tmp_path / "out") == 4
    assert run("release", "verify", tmp_path / "none") == 2
