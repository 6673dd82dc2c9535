"""The peer: stock python-tuf over the same contents, listed flat in one `targets` role.

No code of ours verifies here. A file that a node needs is a target; `by_shard` says whether each
node's directory entry is a target of its own, or the shards are.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from bench.cost import Cost, spent, typical
from embrasure.clock import now
from embrasure.trust import layout
from embrasure.trust.directory import shard_of
from embrasure.trust.documents import write
from tests.simulate.metadata import SimMetadata

if TYPE_CHECKING:
    from tests.simulate.nodes import SimNode
    from tests.simulate.repository import SimRepository


class MemoryFetcher(FetcherInterface):
    """Gives python-tuf the files of a dictionary, and counts."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[str] = []

    def _fetch(self, url: str) -> Iterator[bytes]:
        self.asked.append(url)
        data = self.files.get(url)
        if data is None:
            raise DownloadHTTPError(f"no file {url}", 404)
        yield data

    def bytes_since(self, since: int) -> tuple[int, int]:
        """Return requests and bytes after the first `since` requests."""
        asked = self.asked[since:]
        return len(asked), sum(len(self.files.get(url, b"")) for url in asked)


class FlatPeer:
    """A flat repository with the same documents, and a stock client of it."""

    def __init__(self, repo: SimRepository, *, app: str, node: SimNode, by_shard: bool) -> None:
        self.meta = SimMetadata(clock=now, holders=5, threshold=3)
        env = repo.env
        listed = {
            path: (repo.files[layout.target_file(path, entry.hashes["sha256"])])
            for role, targets in repo.roles.items()
            if role != layout.TARGETS
            for path, entry in targets.targets.items()
            if by_shard or "/dir/" not in path
        }
        if not by_shard:
            listed |= {
                f"fleet/{env}/{one.id}.json": write(one.entry()) for one in repo.nodes.values()
            }
        for path, raw in listed.items():
            self.meta.list_target(layout.TARGETS, path, raw)
        # As many signatures on the list as an approval role has.
        self.meta.sign_with[layout.TARGETS] = self.meta.holders[:3]
        self.meta.publish()
        shard = shard_of(node.id, repo.policies[env].shards)
        own = layout.shard_path(env, shard) if by_shard else f"fleet/{env}/{node.id}.json"
        manifest = repo.plans[layout.app_role(env, app)].manifest.sha256
        self.wanted = [
            layout.policy_path(env), layout.tls_path(env), layout.revocations_path(env), own,
            layout.plan_path(env, app), layout.manifest_path(env, app, manifest),
            layout.gate_path(env, app),
        ]  # fmt: skip
        self.gate = layout.gate_path(env, app)

    def measure(self, *, samples: int, polls: int) -> dict[str, Cost]:
        """Return what cold start, an idle poll and one more gate cost this client."""
        fetcher = MemoryFetcher(self.meta.files)
        cold, idle = [], []
        for _ in range(samples + 1):
            with tempfile.TemporaryDirectory() as folder:
                since = len(fetcher.asked)
                cpu = spent(partial(self._look, fetcher, folder))
                cold.append(Cost(*fetcher.bytes_since(since), cpu))
        with tempfile.TemporaryDirectory() as folder:
            self._look(fetcher, folder)
            for _ in range(polls):
                since = len(fetcher.asked)
                cpu = spent(lambda: self._updater(fetcher, folder).refresh())
                idle.append(Cost(*fetcher.bytes_since(since), cpu))
            raw = b'{"another": "gate"}'
            self.meta.list_target(layout.TARGETS, self.gate, raw)
            self.meta.publish()
            since = len(fetcher.asked)
            cpu = spent(lambda: self._look(fetcher, folder))
            gate = Cost(*fetcher.bytes_since(since), cpu)
        return {"whole": typical(cold[1:]), "idle": typical(idle), "gate": gate}

    def _updater(self, fetcher: MemoryFetcher, folder: str) -> Updater:
        return Updater(
            folder, "metadata/", folder, "targets/", fetcher=fetcher, bootstrap=self.meta.anchor
        )

    def _look(self, fetcher: MemoryFetcher, folder: str) -> None:
        updater = self._updater(fetcher, folder)
        updater.refresh()
        for path in self.wanted:
            found = updater.get_targetinfo(path)
            if found is None:
                raise SystemExit(f"the peer's own repository lacks {path}")
            if updater.find_cached_target(found) is None:
                updater.download_target(found)
