"""The drafts that most tests of signing are about: a plan is stopped, or denied."""

from __future__ import annotations

from embrasure.clock import Clock
from pki import denials
from pki.drafts import Draft
from pki.folder import TrustFolder

DIGEST = "d" * 64


def revoke(trust: TrustFolder, ticking: Clock, plan: str = DIGEST) -> Draft:
    """Return the draft that stops a plan: one keyholder is enough for it."""
    what = denials.denial(plans=[plan], manifests=[], keys=[], nodes=[])
    (draft,) = denials.revoke(trust, "prod", what, reason="bad build", clock=ticking)
    return draft


def deny(trust: TrustFolder, ticking: Clock, plan: str = DIGEST) -> Draft:
    """Return the draft that denies a plan for good, as its threshold of keyholders does."""
    what = denials.denial(plans=[plan], manifests=[], keys=[], nodes=[])
    (draft,) = denials.deny(trust, "prod", what, lift=False, clock=ticking)
    return draft
