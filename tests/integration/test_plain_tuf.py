"""Any TUF client can read our mirror: here python-tuf's own, with nothing of ours in between."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from embrasure.bundle.manifest import parse_manifest
from embrasure.net.identity import dns_name
from embrasure.trust import layout
from tests.simulate.authority import Authority
from tests.simulate.box import bundle_of, running
from tests.simulate.repository import SimRepository


def pinned(authority: Authority, name: str) -> urllib3.PoolManager:
    """Return a pool that trusts this fleet's mirrors and nobody else."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(cadata=authority.issuer_pem("mirror").decode())
    host = dns_name("mirror", name, authority.domain)
    return urllib3.PoolManager(ssl_context=context, server_hostname=host, assert_hostname=host)


class PinnedFetcher(FetcherInterface):
    """GET over one pool: all that python-tuf needs of a transport."""

    def __init__(self, pool: urllib3.PoolManager) -> None:
        self.pool = pool

    def _fetch(self, url: str) -> Iterator[bytes]:
        answer = self.pool.request("GET", url, preload_content=False)
        if answer.status != 200:
            answer.release_conn()
            raise DownloadHTTPError(url, answer.status)
        yield from answer.stream(65536)
        answer.release_conn()


def download(folder: Path, anchor: bytes, port: int, pool: urllib3.PoolManager, path: str) -> bytes:
    """Return a target as stock python-tuf downloads and verifies it."""
    url = f"https://127.0.0.1:{port}"
    for name in ("metadata", "targets"):
        (folder / name).mkdir(parents=True)
    updater = Updater(
        str(folder / "metadata"), f"{url}/metadata/", str(folder / "targets"), f"{url}/targets/",
        fetcher=PinnedFetcher(pool), bootstrap=anchor,
    )  # fmt: skip
    updater.refresh()
    found = updater.get_targetinfo(path)
    assert found is not None
    return Path(updater.download_target(found)).read_bytes()


@pytest.mark.timeout(120)
def test_a_plain_python_tuf_client_downloads_a_manifest_from_our_mirror(tmp_path: Path) -> None:
    authority = Authority()
    repo = SimRepository(env="dev")
    node = repo.add_node()
    repo.add_app("shop")
    repo.set_bundle(bundle_of(authority, repo))
    release = repo.add_release("shop")
    repo.set_gate(repo.set_plan(release, canary=[node]))
    repo.publish()
    path = layout.manifest_path("dev", "shop", release.digest)

    async def course() -> bytes:
        async with running(tmp_path / "m1", authority, repo, kind="mirror") as box:
            await box.uploader().send_all(repo.files)
            pool = pinned(authority, box.config.name)
            return await asyncio.to_thread(
                download, tmp_path / "client", repo.anchor, box.ports["read"], pool, path
            )

    raw = asyncio.run(course())
    assert raw == release.raw
    assert parse_manifest(raw) == release.manifest
