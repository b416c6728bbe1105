"""Routes for the gateways of tests: rules in TOML → the parts of a gateway's configuration."""

from __future__ import annotations

from typing import Any

from fastjmix.ledger.database import LedgerUnavailable
from fastjmix.ledger.queries import Ledger
from tests.support.gateway import NOT_LISTENING, Gateway, until

QUICK = "release_grace_secs = 0.2"


def with_rules(
    *rules: str, builder: str = QUICK, second: int = NOT_LISTENING, **parts: str
) -> dict[str, Any]:
    """Returns the parts of a gateway whose pipeline has these rules, each the keys of one.

    Beside its upstream there is another one, `second`, at that port of this machine.
    """
    tables = "".join(f"\n[[middleware.routes.options.rules]]\n{one}\n" for one in rules)
    url = f"http://127.0.0.1:{second}"
    backend = f'\n[backends.second]\nservice = "jmix_backend"\noptions.base_url = "{url}"'
    return {
        "middleware": '"routes", "jmix_builder"',
        "builder": builder,
        "backend": f'{backend}\n[middleware.routes]\ntype = "route"\n{tables}',
        **parts,
    }


def refused(own: Gateway, word: str, count: int) -> list[dict[str, object]]:
    """Waits until the ledger knows so many instances of a word that are in no envelope."""

    def known() -> list[dict[str, object]]:
        try:
            found = Ledger(own.spool).trace(word).refusals
        except LedgerUnavailable:  # a node makes it in its first second
            return []
        return [one.as_json() for one in found] if len(found) >= count else []

    return until(known, f"the ledger knows {count} of {word}")  # type: ignore[no-any-return]
