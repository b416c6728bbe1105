"""Saves data that only open descriptors hold: the directory of their draft is gone.

Guaranteed: what was acknowledged before the directory went is copied, out of the descriptors, into
a fresh draft.
"""

from __future__ import annotations

import os
from dataclasses import replace

from fastjmix.spool.building import Building
from fastjmix.spool.directories import SEALED_STATES
from fastjmix.spool.draft import Leftover
from fastjmix.spool.linked import Held, identity, leads_to
from fastjmix.spool.reading import is_file


def save(spool: Building, leftover: Leftover) -> Leftover:
    """Returns a draft on the disk with everything that `leftover.held` was promised to keep.

    It is the same draft when its path leads to it again (its directory was moved back, its disk
    mounted again), else a fresh one. Raises OSError while the storage directory takes none.
    """
    held = leftover.held
    if held is None:
        return leftover
    if _is_there(spool, leftover, held):
        saved = replace(leftover, held=None)
    else:
        recipe = replace(leftover.recipe, replaces=None)
        draft = spool.new_draft(recipe, durable=spool.durable)
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


def _is_there(spool: Building, leftover: Leftover, held: Held) -> bool:
    """Tells whether it can be recovered from its paths. In another form, or sealed, its archive has
    left.
    """
    if leads_to(leftover.archive, identity(held.archive)) or leftover.sealed.exists():
        return True
    return any(is_file(spool.path(state, leftover.id)) for state in SEALED_STATES)
