"""An image holds public data only; whatever is a secret in it is found, wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from embrasure import limits
from embrasure.errors import Denied, Refused
from embrasure.trust.joining import new_token
from node.image import check_image
from tests.ablation import Ablation
from tests.simulate.authority import Authority
from tests.simulate.office import verb

KEY = Authority().leaf("node", "n1").key_pem
KEY_FILE = b'{"box":"x","kdf":"argon2id","keyid":"y"}'


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A root file system with what an image may hold."""
    top = tmp_path / "rootfs"
    config = top / "etc" / "embrasure"
    (config / "apps.d").mkdir(parents=True)
    (config / "anchor.json").write_bytes(b'{"signatures":[],"signed":{}}')
    (config / "gateway-ca.pem").write_bytes(Authority().issuer_pem("gateway"))
    (config / "apps.d" / "shop.toml").write_text("ports = { web = 8001 }\n")
    (top / "var" / "lib" / "embrasure" / "keys").mkdir(parents=True)
    (top / "opt").mkdir()
    (top / "opt" / "link.key").symlink_to("/etc/shadow")
    (top / "opt" / "empty.key").touch()
    (top / "opt" / "digest").write_text("0" * 64)
    return top


def test_public_data_passes_and_no_link_is_followed(image: Path) -> None:
    assert check_image(image) == 5
    done = verb("node", "image", image)
    assert (done.code, done.body["files"]) == (0, 5)


def big_with_key(folder: Path) -> None:
    # The mark lies across the end of a piece that is read at once.
    (folder / "blob").write_bytes(b"x" * (limits.BUFFER_BYTES - 12) + KEY)


SECRETS: list[Callable[[Path], object]] = [
    lambda top: (top / "opt" / "tls.key").write_bytes(KEY),
    lambda top: (top / "opt" / "notes.txt").write_bytes(b"see\n" + KEY),
    lambda top: big_with_key(top / "opt"),
    lambda top: (top / "opt" / "alice").write_bytes(KEY_FILE),
    lambda top: (top / "opt" / "seal.key").write_text("ab" * 96),
    lambda top: (top / "opt" / "receipt.key").write_text("ab" * 32 + "\n"),
    lambda top: (top / "opt" / "a").write_text(f'"receipt":"{"ab" * 32}","seal":"{"cd" * 96}"'),
    lambda top: (top / "opt" / "run.sh").write_text(f"TOKEN={new_token()}\n"),
    lambda top: (top / "etc/embrasure/statement.json").write_text("{}"),
    lambda top: (top / "etc/embrasure/join.json").write_text("{}"),
    lambda top: (top / "etc/embrasure/enrolled.json").write_text("{}"),
    lambda top: (top / "var/lib/embrasure/keys/identity.json").write_text("{}"),
]


@pytest.mark.misuse
@pytest.mark.parametrize("leak", SECRETS)
def test_a_secret_in_an_image_fails_its_build(
    leak: Callable[[Path], object], image: Path, ablation: Ablation
) -> None:
    leak(image)
    with pytest.raises(Refused) as told:
        check_image(image)
    assert told.value.reason == "secret-in-image"
    assert "PRIVATE" not in str(told.value)
    with ablation("looking at each file") as attack:
        attack.without("node.image.secret_in", lambda _: "")
        attack.without("node.image.identity_at", lambda *_: "")
        attack.succeeded(check_image(image))


def test_a_node_that_was_made_in_an_image_is_found(tmp_path: Path, image: Path) -> None:
    from tests.simulate.fleet import SimFleet

    (tmp_path / "fleet").mkdir()
    node = SimFleet(tmp_path / "fleet").make("n1", port=8001)
    with pytest.raises(Refused):
        check_image(node.paths.prefix)


def test_what_cannot_be_read_is_an_error_and_no_pass(
    image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)  # root reads everything
    with pytest.raises(Denied):
        check_image(image)
