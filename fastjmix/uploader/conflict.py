"""Decides about a 409: is the envelope that the upstream has the one that we sent?

Wanted: an envelope that arrived by an earlier attempt is recorded as delivered; one of somebody
else's is not.
Guaranteed: DELIVERED only when the upstream's copy of manifest.json equals ours, as JSON.

    GET {url}/{id}/manifest            outcome
    equal to ours                      DELIVERED
    another manifest                   REFUSED
    none to be had                     REFUSED at our first attempt: the id is somebody else's.
                                       RETRY when an earlier attempt may have stored it, since it
                                       may still be arriving
    the question failed                RETRY or HELD, as for a POST: nothing is known
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from fastjmix.uploader.answers import (
    Answer,
    document,
    effective_document,
    effective_status,
    is_markup,
    remote_id,
    same_id,
)
from fastjmix.uploader.outcome import Disposition, Failure, Outcome
from fastjmix.uploader.policy import SHARED_STATUSES, assess_failure, meaning

_NO_COPY: Final = frozenset({404, 405, 406, 410, 501})
"""Statuses of GET manifest for an upstream that has none, or does not serve it."""

_CREDENTIALS: Final = frozenset({401, 403, 407})


def equals(copy: Answer | Failure, manifest: bytes) -> bool:
    """Returns whether the answer to GET {url}/{id}/manifest is our manifest, as JSON."""
    if isinstance(copy, Failure) or copy.cut or copy.over or effective_status(copy) // 100 != 2:
        return False
    ours = document(manifest)
    return isinstance(ours, dict) and ours in (document(copy.body), effective_document(copy))


def assess_copy(
    conflict: Outcome,
    copy: Answer | Failure,
    manifest: bytes,
    envelope_id: str,
    *,
    maybe_stored: bool,
) -> Outcome:
    """Returns the outcome of a 409, given the upstream's manifest and the one in our archive.

    `maybe_stored`: an earlier attempt may have put the envelope there.
    """
    if isinstance(copy, Failure):
        return replace(assess_failure(copy), answer=conflict.answer)
    status = effective_status(copy)
    if equals(copy, manifest):
        return replace(
            conflict,
            disposition=Disposition.DELIVERED,
            reason="the upstream has this very envelope",
            remote_id=envelope_id,
            verified=True,
        )
    if status in _CREDENTIALS or status // 100 == 3:
        disposition, reason = meaning(status)
        return replace(conflict, disposition=disposition, reason=reason, status=status)
    when = "after an attempt of unknown outcome" if maybe_stored else "at our first attempt"
    begins = f"the upstream has an envelope with this id {when}; its manifest"
    if status // 100 == 2 and not copy.cut and _is_manifest(copy, envelope_id):
        return replace(conflict, disposition=Disposition.REFUSED, reason=f"{begins} is another")
    reason = f"{begins} cannot be had (status {status})"
    if status in _NO_COPY and not maybe_stored:
        return replace(conflict, disposition=Disposition.REFUSED, reason=reason)
    return replace(
        conflict,
        disposition=Disposition.RETRY,
        reason=f"{reason}: it may be arriving still, and is asked for again",
        status=status,
        shared=status in SHARED_STATUSES,
    )


def _is_manifest(copy: Answer, envelope_id: str) -> bool:
    """Returns whether it is an object that names the envelope, or is too long to be ours."""
    return same_id(remote_id(copy), envelope_id) or (copy.over and not is_markup(copy))
