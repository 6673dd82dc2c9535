"""Who counts for a draft: the keyholders in force, and those whom open drafts will put in force."""

from __future__ import annotations

from tuf.api.metadata import Root

from embrasure.trust import layout
from pki import store, verify
from pki.drafts import Draft
from pki.folder import TrustFolder


def missing(trust: TrustFolder, draft: Draft) -> tuple[int, list[str], list[str]]:
    """Return how many signatures a draft still needs, who has signed, and who still may."""
    wanting, signed, others = 0, set[str](), set[str]()
    for delegator in delegators(trust, draft):
        threshold, keys = verify.keys_of(draft.role, delegator)
        valid = verify.signers(draft.role, draft.metadata, delegator)
        wanting = max(wanting, threshold - len(valid))
        signed |= {verify.name_of(key) for key in valid.values()}
        others |= {verify.name_of(keys[keyid]) for keyid in keys if keyid not in valid}
    return max(0, wanting), sorted(signed), sorted(others)


def delegators(trust: TrustFolder, draft: Draft) -> list[verify.Delegator]:
    """Return who must accept the draft: what is in force, and the open draft that will be."""
    if draft.role == layout.ROOT:
        held = trust.held(layout.ROOT)
        own = store.as_root(draft.metadata)
        return [own] if held is None else [store.as_root(held), own]
    above = layout.ROOT if draft.role == layout.TARGETS else layout.TARGETS
    held, coming = trust.held(above), trust.draft(above)
    both = [found.metadata if isinstance(found, Draft) else found for found in (held, coming)]
    found = [delegator_of(one) for one in both if one is not None]
    return [one for one in found if verify.delegates(one, draft.role)] or found[-1:]


def delegator_of(held: store.AnyMetadata) -> verify.Delegator:
    """Return root or targets as the one who says which keys sign other roles."""
    return held.signed if isinstance(held.signed, Root) else store.as_targets(held)
