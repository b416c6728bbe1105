"""Saves instances that only open descriptors hold, since the directory of their draft is gone.

Guaranteed: all that was acknowledged before the directory went is copied from the descriptors into
a fresh draft.
"""

from __future__ import annotations

import os
from dataclasses import replace

from fastjmix.spool.directories import SEALED_STATES
from fastjmix.spool.draft import Leftover
from fastjmix.spool.linked import Held, identity, leads_to
from fastjmix.spool.reading import is_file
from fastjmix.spool.states import Spool


def save(spool: Spool, leftover: Leftover) -> Leftover:
    """Returns a draft on the disk with all that was promised in `leftover.held`.

    It is the same draft if its path leads to it again (its directory was moved back, or its disk
    mounted again), else a fresh one. Raises OSError while no draft can be made.
    """
    held = leftover.held
    if held is None:
        return leftover
    if _is_there(spool, leftover, held):
        saved = replace(leftover, held=None)
    else:
        recipe = replace(leftover.recipe, replaces=None)
        draft = spool.drafts.new(recipe, durable=spool.durable)
        end = os.fstat(held.archive).st_size if leftover.end is None else leftover.end
        try:
            draft.take_over(held, end)
            draft.commit()
        except BaseException:
            draft.abandon()
            raise
        saved = draft.leave()
    held.close()
    return saved


def _is_there(spool: Spool, leftover: Leftover, held: Held) -> bool:
    """Returns True when the draft can be recovered from its paths: from its archive, or from the
    archive in another form; or when it is sealed."""
    if leads_to(leftover.archive, identity(held.archive)) or leftover.sealed.exists():
        return True
    return any(is_file(spool.path(state, leftover.id)) for state in SEALED_STATES)
