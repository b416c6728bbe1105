"""Which calling AE titles a DICOM listener accepts, and the settings of their envelopes: aet_table.

Guaranteed: each AE title once, with complete settings: the jmix_builder's, and the entry's own in
their place.
"""

from __future__ import annotations

import dataclasses

from fastjmix.config import tree
from fastjmix.config.builders import Rules, builder, with_other
from fastjmix.config.faults import dotted, shown
from fastjmix.config.references import References
from fastjmix.config.strings import AE_TITLE_ALLOWED, ae_title
from fastjmix.config.table_checks import Entry
from fastjmix.config.tables_pipeline import OVERRIDES, AetEntry, DicomOptions


def calling_aes(
    references: References, entry: Entry, options: DicomOptions, rules: Rules | None
) -> dict[str, tree.CallingAe] | None:
    """Returns the entries of an endpoint's aet_table by AE title; None where all are accepted.

    `rules` None: the jmix_builder has faults, and the entries are looked at for their own.
    """
    if not options.aet_table:
        if options.aet_table is not None:
            warning = "empty, so every calling AE title is let in"
            references.findings.warn(f"{entry.path}.options.aet_table: {warning}")
        return None
    found: dict[str, tree.CallingAe] = {}
    for name, given in options.aet_table.items():
        key = dotted("options", "aet_table", name)
        title = given.ae_title or _title(references, entry, key, name)
        if title in found:
            references.fault(entry, f"{key}.ae_title", f'"{title}" again', "each AE title once")
        merged, other = _merged(given, rules.builder if rules else builder()), None
        if rules is not None:
            merged, other = with_other(rules.parties, merged, rules.profiles, entry, key, given)
        found[title] = tree.CallingAe(
            title, given.host, given.port, given.max_associations, merged, other
        )
    return found


def _merged(given: AetEntry, own: tree.Builder) -> tree.Builder:
    """Returns the builder's settings with those of an entry in their place, without parties."""
    overrides = {name: value for name in OVERRIDES if (value := getattr(given, name)) is not None}
    return dataclasses.replace(own, published=None, **overrides)


def _title(references: References, entry: Entry, key: str, name: str) -> str:
    """Returns the AE title that the name of an entry is."""
    try:
        return ae_title(name)
    except ValueError:
        found = f"nothing, and the entry's name {shown(name)} is no AE title"
        references.fault(entry, f"{key}.ae_title", found, AE_TITLE_ALLOWED)
        return name
