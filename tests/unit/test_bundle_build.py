"""Building: the same input gives the same bytes; what a node would refuse is refused here."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.bundle.build import Built, build, write_bundle
from embrasure.bundle.folder import open_bundle, verify_bundle
from embrasure.bundle.manifest import (
    Entry,
    FileAgeProbe,
    GrpcProbe,
    Hook,
    HttpProbe,
    SystemdProbe,
    TcpProbe,
)
from embrasure.bundle.store import BlobStore
from embrasure.errors import EmbrasureError, Misuse, NotSupported, Refused
from tests.ablation import Ablation
from tests.simulate.apps import APP_TOML, FILES, make_app

# Committed once: a build on any machine, under any umask and at any time, gives this digest.
DIGEST = "660e8386834b515ef787c28189e4b2379fb0ac5351981f726b34a25c8a269a52"


@pytest.fixture
def app(tmp_path: Path) -> Path:
    return make_app(tmp_path / "app")


def entries(built: Built) -> dict[str, Entry]:
    return {entry.path: entry for entry in built.manifest.files}


def test_the_same_input_gives_the_digest_that_every_other_machine_gives(app: Path) -> None:
    assert build(app).digest == DIGEST


def test_times_owners_umask_and_order_of_creation_do_not_count(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        other = make_app(tmp_path / "b", files=dict(reversed(FILES.items())))
    finally:
        os.umask(before)
    for path in other.rglob("*"):
        os.utime(path, (1, 1))
    (other / "code" / "main.py").chmod(0o600)
    assert build(other).digest == DIGEST


def test_every_file_counts_also_hidden_ones(app: Path) -> None:
    (app / "code" / ".git").mkdir()
    (app / "code" / ".git" / "HEAD").write_bytes(b"x")
    assert "code/.git/HEAD" in entries(build(app))
    assert build(app).digest != DIGEST


def test_modes_are_two(app: Path) -> None:
    for name, mode in (("a", 0o600), ("b", 0o666), ("c", 0o001), ("d", 0o777)):
        (app / "code" / name).write_bytes(name.encode())
        (app / "code" / name).chmod(mode)
    found = entries(build(app))
    assert [found[f"code/{n}"].mode for n in "abcd"] == ["0444", "0444", "0555", "0555"]


def test_a_change_of_an_executable_bit_changes_the_digest(app: Path) -> None:
    (app / "code" / "main.py").chmod(0o755)
    assert build(app).digest != DIGEST


def test_links_and_empty_folders_are_carried(app: Path) -> None:
    (app / "code" / "link").symlink_to("lib/shop.py")
    (app / "code" / "folder").symlink_to("lib")
    (app / "code" / "empty").mkdir()
    found = entries(build(app))
    assert (found["code/link"].kind, found["code/link"].target) == ("link", "lib/shop.py")
    assert found["code/folder"].target == "lib"
    assert found["code/empty"].kind == "dir"
    assert "code/lib" not in found, "a folder with files is told by its files"


def test_equal_files_are_one_blob(app: Path, tmp_path: Path) -> None:
    (app / "code" / "copy.py").write_bytes(FILES["code/main.py"])
    built = build(app)
    assert len(built.manifest.blobs()) == len(FILES)
    write_bundle(built, tmp_path / "out")
    verify_bundle(open_bundle(tmp_path / "out"))


def test_the_command_line_names_app_and_version(app: Path) -> None:
    found = build(app, app="other", version="2.0").manifest
    assert (found.app, found.version) == ("other", "2.0")


def test_defaults_are_filled(tmp_path: Path) -> None:
    text = """
app = "shop"
version = "1.0"
[run]
argv = ["code/bin/migrate"]
ports = ["web"]
[[hooks]]
point = "prepare"
argv = ["code/bin/migrate"]
[[probes]]
kind = "http"
port = "web"
[[probes]]
kind = "tcp"
port = "web"
passes = 1
[[probes]]
kind = "grpc"
port = "web"
[[probes]]
kind = "file-age"
path = "beat"
[[probes]]
kind = "systemd"
unit = "worker"
"""
    found = build(make_app(tmp_path / "app", app_toml=text)).manifest
    times = {"interval_ms": 2_000, "timeout_ms": 3_000, "start_s": 60}
    assert found.probes == (
        HttpProbe(port="web", path="/", status=200, passes=3, **times),
        TcpProbe(port="web", passes=1, **times),
        GrpcProbe(port="web", service="", passes=3, **times),
        FileAgeProbe(path="beat", max_age_s=60, passes=3, **times),
        SystemdProbe(unit="worker", passes=3, **times),
    )
    assert found.hooks == (Hook(point="prepare", argv=("code/bin/migrate",), timeout_s=300),)
    assert found.confirm == "probes" and not found.irreversible


def make_fifo(app: Path) -> None:
    os.mkfifo(app / "code" / "x")


def make_socket(app: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        before = Path.cwd()
        os.chdir(app / "code")  # a socket's path has at most 107 bytes
        try:
            listener.bind("x")
        finally:
            os.chdir(before)


def make_setuid(app: Path) -> None:
    (app / "code" / "main.py").chmod(0o4755)


def make_setgid(app: Path) -> None:
    (app / "code" / "main.py").chmod(0o2755)


def make_absolute_link(app: Path) -> None:
    (app / "code" / "x").symlink_to("/etc/passwd")


def make_link_out(app: Path) -> None:
    (app / "code" / "x").symlink_to("../config/shop.toml")


def make_link_to_nothing(app: Path) -> None:
    (app / "code" / "x").symlink_to("nothing")


def make_link_to_a_link(app: Path) -> None:
    (app / "code" / "x").symlink_to("main.py")
    (app / "code" / "y").symlink_to("x")


def make_link_that_is_no_text(app: Path) -> None:
    (app / "code" / "x").symlink_to(os.fsdecode(b"\xff"))


def make_name_with(name: bytes) -> Callable[[Path], None]:
    def make(app: Path) -> None:
        Path(os.fsdecode(os.fsencode(app / "code") + b"/" + name)).write_bytes(b"")

    return make


def make_twins(app: Path) -> None:
    (app / "code" / "README").write_bytes(b"")
    (app / "code" / "readme").write_bytes(b"")


def make_deep(app: Path) -> None:
    place = app / "code"
    for _ in range(limits.PATH_DEPTH + 1):
        place = place / "d"
        place.mkdir()


BAD_TREES = [
    (make_fifo, "bad-type"),
    (make_socket, "bad-type"),
    (make_setuid, "bad-mode"),
    (make_setgid, "bad-mode"),
    (make_absolute_link, "bad-link"),
    (make_link_out, "bad-link"),
    (make_link_to_nothing, "bad-link"),
    (make_link_to_a_link, "bad-link"),
    (make_link_that_is_no_text, "bad-link"),
    (make_name_with(b"\xff"), "bad-path"),
    (make_name_with(b"a\nb"), "bad-path"),
    (make_name_with(b"-rf"), "bad-path"),
    (make_name_with("e\u0301".encode()), "bad-path"),
    (make_name_with("a\u202eb".encode()), "bad-path"),
    (make_name_with(b"a\\b"), "bad-path"),
    (make_twins, "duplicate"),
    (make_deep, "limit"),
]


@pytest.mark.parametrize(("make", "reason"), BAD_TREES)
def test_what_a_node_would_refuse_is_refused_when_it_is_built(
    app: Path, make: Callable[[Path], None], reason: str
) -> None:
    make(app)
    with pytest.raises(Refused) as problem:
        build(app)
    assert problem.value.reason == reason


@pytest.mark.misuse
def test_without_the_check_of_modes_a_set_user_id_bit_is_dropped_in_silence(
    app: Path, ablation: Ablation
) -> None:
    make_setuid(app)
    with pytest.raises(Refused):
        build(app)
    with ablation("the check of modes") as attack:
        attack.without("embrasure.bundle.tree._SPECIAL_BITS", 0)
        attack.succeeded(entries(build(app))["code/main.py"].mode == "0555")


@pytest.mark.misuse
def test_a_link_is_never_followed_into_what_is_shipped(
    app: Path, tmp_path: Path, ablation: Ablation
) -> None:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "key").write_bytes(b"secret")
    (app / "config" / "shop.toml").unlink()
    (app / "config").rmdir()
    (app / "config").symlink_to(tmp_path / "secret")
    with pytest.raises(Refused) as problem:
        build(app)
    assert problem.value.reason == "bad-link"
    with ablation("a tree that follows no link") as attack:
        attack.succeeded([path.read_bytes() for path in (app / "config").iterdir()] == [b"secret"])


def test_too_many_files_are_refused(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FILES", 3)
    with pytest.raises(Refused) as problem:
        build(app)
    assert problem.value.reason == "limit"


@pytest.mark.parametrize(
    ("change", "kind"),
    [
        (("argv = [", "argw = ["), Misuse),
        (('"python3", "code/main.py"', ""), Misuse),
        (('"python3"', '"/bin/sh"'), Refused),
        (('"python3"', '"code/main.py"'), Refused),  # not executable
        (('"python3"', '"sh -c"'), Refused),
        (("GREETING", "greeting"), Misuse),
        (('port = "web"', 'port = "db"'), Refused),
        (('kind = "http"', 'kind = "icmp"'), Misuse),
        (("[run]", 'confirm = "gateway"\n[run]'), Misuse),
        (("[run]", "irreversible = true\n[run]"), Refused),
        (("[[probes]]", '[[hooks]]\npoint = "migrate"\nargv = ["sh"]\n[[probes]]'), Refused),
        (("[run]", 'requires = [{app = "db"}]\n[run]'), NotSupported),
        (("[run]", 'secrets = [{name = "key", mode = "0444"}]\n[run]'), Refused),
        (('version = "1.0"', 'version = "1 0"'), Misuse),
        (('version = "1.0"', ""), Misuse),
        (('app = "shop"', 'app = "Shop"'), Misuse),
        (('"hello"', '"hel\\u001blo"'), Refused),
    ],
)
def test_a_wrong_app_file_is_one_clear_error(
    tmp_path: Path, change: tuple[str, str], kind: type[EmbrasureError]
) -> None:
    app = make_app(tmp_path / "app", app_toml=APP_TOML.replace(*change, 1))
    with pytest.raises(kind) as problem:
        build(app)
    assert type(problem.value) is kind


@pytest.mark.parametrize("words", [{"app": "../x"}, {"app": "Shop"}, {"version": "1 0"}])
def test_a_wrong_name_on_the_command_line_is_a_mistake_of_the_caller(
    app: Path, words: dict[str, str]
) -> None:
    with pytest.raises(Misuse):
        build(app, **words)


def test_a_folder_without_an_app_is_one_clear_error(tmp_path: Path) -> None:
    for folder in (tmp_path / "none", tmp_path):
        with pytest.raises(Misuse):
            build(folder)
    with pytest.raises(Misuse):
        build(make_app(tmp_path / "empty", files={}))


def test_a_bundle_is_written_once_and_the_second_time_is_harmless(
    app: Path, tmp_path: Path
) -> None:
    built = build(app)
    assert write_bundle(built, tmp_path / "out")
    assert not write_bundle(built, tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    assert (bundle.raw, bundle.digest) == (built.raw, built.digest)
    assert verify_bundle(bundle) == ()
    names = sorted(p.name for p in (tmp_path / "out").iterdir())
    assert names == ["blobs", "manifest.json"]
    for digest in built.manifest.blobs():
        assert stat.S_IMODE(bundle.blob_path(digest).stat().st_mode) == 0o444


def test_a_lost_blob_of_a_bundle_is_written_again(app: Path, tmp_path: Path) -> None:
    built = build(app)
    write_bundle(built, tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    lost = bundle.blob_path(next(iter(built.sources)))
    lost.unlink()
    with pytest.raises(Refused):
        verify_bundle(bundle)
    assert not write_bundle(built, tmp_path / "out")
    assert verify_bundle(bundle) == ()


def test_another_bundle_is_not_written_over(app: Path, tmp_path: Path) -> None:
    write_bundle(build(app), tmp_path / "out")
    before = (tmp_path / "out" / "manifest.json").read_bytes()
    with pytest.raises(Misuse):
        write_bundle(build(app, version="2.0"), tmp_path / "out")
    assert (tmp_path / "out" / "manifest.json").read_bytes() == before


def test_a_bundle_is_not_written_into_what_it_ships(app: Path) -> None:
    with pytest.raises(Misuse):
        write_bundle(build(app), app / "code" / "out")
    assert not (app / "code" / "out").exists()
    assert write_bundle(build(app), app / "out")


@pytest.mark.misuse
@pytest.mark.parametrize("content", [b"changed now!\n\n\n", b"longer than it was before", b"short"])
def test_a_file_that_changes_between_hash_and_copy_is_refused(
    app: Path, tmp_path: Path, content: bytes, ablation: Ablation
) -> None:
    built = build(app)
    (app / "code" / "main.py").write_bytes(content)
    with pytest.raises(Refused) as problem:
        write_bundle(built, tmp_path / "out")
    assert problem.value.reason == "bad-hash"
    assert not (tmp_path / "out" / "manifest.json").exists(), "no manifest, so no bundle"
    with ablation("the second hash") as attack:
        attack.without("embrasure.bundle.build._copy", any_copy)
        write_bundle(built, tmp_path / "other")
        held = [path.read_bytes() for path in (tmp_path / "other").rglob("blobs/*/*")]
        attack.succeeded(content in held)


def any_copy(store: BlobStore, source: Path, digest: str, length: int) -> None:
    """Copy what lies there now under the name of what lay there before."""
    content = source.read_bytes()
    with store.writer(digest, length=len(content)) as writer:
        writer.write(content)
        store._add_pending(writer)


@pytest.mark.misuse
@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "bad-length"),
        (lambda path: path.write_bytes(b"y" * path.stat().st_size), "bad-hash"),
        (lambda path: (path.rename(path.with_name("x")), path.symlink_to("x")), "bad-link"),
    ],
    ids=["missing", "longer", "other", "link"],
)
def test_a_spoilt_blob_is_found(
    app: Path, tmp_path: Path, spoil: Callable[[Path], object], reason: str, ablation: Ablation
) -> None:
    built = build(app)
    write_bundle(built, tmp_path / "out")
    bundle = open_bundle(tmp_path / "out")
    blob = bundle.blob_path(next(iter(built.sources)))
    blob.chmod(0o644)
    spoil(blob)
    with pytest.raises(Refused) as problem:
        verify_bundle(bundle)
    assert problem.value.reason == reason
    with ablation("the look at every blob") as attack:
        attack.succeeded(open_bundle(tmp_path / "out").manifest.files)


def test_what_a_bundle_does_not_name_is_told(app: Path, tmp_path: Path) -> None:
    write_bundle(build(app), tmp_path / "out")
    (tmp_path / "out" / "notes.txt").write_bytes(b"")
    (tmp_path / "out" / "blobs" / "zz").write_bytes(b"")
    assert verify_bundle(open_bundle(tmp_path / "out")) == ("blobs/zz", "notes.txt")


def test_a_folder_that_is_no_bundle_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(Misuse):
            open_bundle(folder)
