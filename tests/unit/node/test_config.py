"""What the node's owner wrote: exactly the known keys, or a sentence that names the wrong one."""

from __future__ import annotations

from pathlib import Path

import pytest

from embrasure.errors import Denied, Misuse
from node.config import app_names, load_app, load_config
from node.paths import Paths
from tests.ablation import Ablation

NODE = f'id = "n-{"a" * 26}"\nenv = "dev"\nmode = "push"\ndomain = "example.org"\n'


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = Paths(tmp_path)
    found.apps.mkdir(parents=True)
    return found


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o600)


def test_a_node_is_described_in_a_few_lines(paths: Paths) -> None:
    write(paths.node_toml, NODE + '[[mirrors]]\nname = "m1"\naddress = "127.0.0.1:8443"\n')
    config = load_config(paths)
    assert (config.env, config.mode, config.poll_s, config.letterbox) == ("dev", "push", 60, None)
    assert [(mirror.name, mirror.address) for mirror in config.mirrors] == [
        ("m1", "127.0.0.1:8443")
    ]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('mode = "push"', 'mode = "pull-ish"'),
        ('env = "dev"', 'env = "Dev"'),
        ('domain = "example.org"', 'domain = "exa mple"'),
        ('env = "dev"', 'env = "dev"\nenvv = "x"'),
        ('env = "dev"', ""),
        ('env = "dev"', 'env = "dev"\npoll_s = 0'),
    ],
)
def test_a_wrong_key_or_value_is_named(paths: Paths, old: str, new: str) -> None:
    write(paths.node_toml, NODE.replace(old, new))
    with pytest.raises(Misuse):
        load_config(paths)


@pytest.mark.misuse
def test_a_file_that_others_can_write_is_not_believed(paths: Paths, ablation: Ablation) -> None:
    write(paths.node_toml, NODE)
    paths.node_toml.chmod(0o666)
    with pytest.raises(Denied):
        load_config(paths)
    with ablation("the look at its mode") as attack:
        attack.without("embrasure.fs.check_unshared")
        attack.succeeded(load_config(paths).id)


@pytest.mark.parametrize(
    "text",
    [
        "[ports]\nweb = 0\n",
        "[ports]\nweb = 70000\n",
        "[ports]\nWeb = 80\n",
        '[interpreters]\npython3 = "bin/python3"\n',
        '[interpreters]\n"../sh" = "/bin/sh"\n',
        "run = 1\n",
    ],
)
def test_an_app_gets_real_ports_and_full_paths_only(paths: Paths, text: str) -> None:
    write(paths.app_toml("shop"), text)
    with pytest.raises(Misuse):
        load_app(paths, "shop")


def test_an_app_without_a_file_is_not_allowed(paths: Paths) -> None:
    with pytest.raises(Denied):
        load_app(paths, "shop")
    write(paths.app_toml("shop"), "")
    assert load_app(paths, "shop").ports == {}
    assert app_names(paths) == ("shop",)


def test_a_file_whose_name_is_no_app_is_told(paths: Paths) -> None:
    write(paths.apps / "Shop!.toml", "")
    with pytest.raises(Misuse):
        app_names(paths)


def test_every_path_of_a_node_is_below_its_prefix(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    for folder in (
        *paths.folders(),
        paths.release("shop", "1-x"),
        paths.tls_chain,
        paths.boot_cert,
    ):
        assert folder.is_relative_to(tmp_path)
