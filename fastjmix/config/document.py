"""Writes docs/configuration.md from the models of the tables: python -m fastjmix.config.document

The page is written below the working directory. Guaranteed: it has every key of every table, in the
order of the models; a test compares it with them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from pydantic.fields import FieldInfo

from fastjmix.config import tables_backend, tables_net, tables_node, tables_pipeline, tables_route
from fastjmix.config.declare import Table, is_named, option, table_of
from fastjmix.config.faults import shown
from fastjmix.config.in_words import allowed

_HEAD: Final = """\
# Configuration

*Written by `python -m fastjmix.config.document` from the models that check the files. Do not edit:
change `fastjmix/config/` and run it again.*

fastjmix reads one main file (`fastjmix run -c config.toml`) and every `*.toml` of its
`proxy.pipelines_path`. Tables and keys are those of the reference pipeline, so that a Harmony
instance's files for it run unmodified; Harmony does not have the keys marked **+**.
`fastjmix check -c config.toml` prints one file with the same effect, with every default and without
secrets: it can be pasted.

- A table that stands once (`[proxy]`, `[logging]`, `[storage]`, `[fastjmix]`) belongs to the main
  file. All others may stand in any of the files, each name once.
- An unknown key, a wrong value, a name that leads nowhere: nothing is started, every fault of every
  file is named, and the exit code is 2.
- Keys that are accepted and mean nothing here are named in one line of the log at the start.
- `${NAME}` inside a string is replaced by that environment variable, which must be set; `$${`
  stands for a plain `${`. Where a number or a truth value belongs, `"${NAME}"`
  is read as one. Keys are taken as they are.
- `pipelines_path` is relative to the main file; a `key_file`, `recipient_key_file` or
  `decryption_key_file`, and the file of a secret (`token_file` …), to the file that names it; every
  other path to the working directory.
- A name may be written alone (`jmix_auth`) or with its family (`authentications.jmix_auth`).

## Precedence

| value | highest first |
|---|---|
| log level | `logging.log_level`, `proxy.log_level`, info |
| address and port of a DICOM listener, each | `options.bind_addr` / `options.port`, the \
endpoint's `connection`, its peer's `connection`, the network, 0.0.0.0:11113 |
| address and port of an HTTP listener, each | the endpoint's `connection`, its peer's, the \
network, 127.0.0.1:8086 |
| address of the upstream | `options.base_url`, the backend's `connection` (key by key over the \
target's), the target's `url` |
| credentials for the upstream | `options.authentication_ref`, the backend's `authentication`, the \
target's |
| credentials of callers of the query API | `options.authentication_ref`, \
`options.authentication`, the endpoint's `authentication`, the peer's |
| time limit, retries | the backend's, the target's, 30 s and 3 |
| settings of a calling AE title | its entry in `aet_table`, the `jmix_builder`'s options |

An endpoint listens once on each network of its pipeline, unless something above the network says
where. Where two places differ, a warning says which one won.

The URL that envelopes are posted to is base + `path_prefix` + `/jmix`, and `/api/jmix` where
`path_prefix` is empty; a path that already ends in `/jmix` is used as it is. A `jmix` pipeline
without backends passes a POST on to the upstreams of the first DICOM pipeline.

## Refused configurations

| configuration | why |
|---|---|
| a middleware other than `jmix_builder`, `passthru` and `route`; `[policies]`, `[rules]`, \
`[mesh]`, `[transforms]` | they may protect something: to leave them out silently would be unsafe |
| parties, `encryption` or `signing` where no envelope has `profile = "jmix-1.0"`; that profile \
without `sender` and `receivers`, or with `digest = "blake3"` | no document has a place for it; \
the published schemas require it |
| a key file that cannot be read, or is no key of its kind | no envelope could be sealed |
| `storage.backend` other than "filesystem" | Success promises an fsync |
| a `module` that is not empty | fastjmix loads no modules |
| `enable_find`, `enable_move`, `enable_get` = true | not offered |
| `max_pdu = 0` | "no limit" would let a sender decide how much memory we need |
| a certificate on a network of a `dicom_scp` endpoint | DICOM TLS is not offered yet: put stunnel \
in front |
| a query API beyond loopback without credentials | set `authentication_ref`, or \
`allow_unauthenticated = true` |
| a DICOM pipeline without `jmix_builder`, or without a backend | no envelope would be made, or \
none delivered |

## Every key
"""

_SECTIONS: Final[tuple[tuple[str, str, type[Table]], ...]] = (
    ("proxy", "", tables_node.Proxy),
    ("logging", "", tables_node.Logging),
    ("storage", "", tables_node.Storage),
    ("fastjmix", "", tables_node.Fastjmix),
    ("alerts", "", tables_node.Alerts),
    ("network.<name>", "", tables_net.Network),
    ("peers.<name>", "", tables_net.Peer),
    ("targets.<name>", "a JMIX server", tables_net.Target),
    ("targets.<name>", 'type = "directory"', tables_net.DirectoryTarget),
    ("targets.<name>", 'type = "s3"', tables_net.S3Target),
    ("authentications.<name>", "", tables_net.Authentication),
    ("pipelines.<name>", "", tables_pipeline.Pipeline),
    ("endpoints.<name>", 'service = "dicom_scp"', tables_pipeline.DicomEndpoint),
    ("endpoints.<name>", 'service = "jmix"', tables_pipeline.JmixEndpoint),
    ("middleware.<name>", 'type = "jmix_builder"', tables_pipeline.BuilderMiddleware),
    ("middleware.<name>", 'type = "passthru"', tables_pipeline.PassthruMiddleware),
    ("middleware.<name>", 'type = "route"; see docs/routing.md', tables_pipeline.RouteMiddleware),
    (
        "middleware.<name>.options.rules",
        "an array of tables: `[[…]]`",
        tables_route.RouteRule,
    ),
    (
        "middleware.<name>",
        'type = "command"; see docs/hooks.md',
        tables_pipeline.CommandMiddleware,
    ),
    ("backends.<name>", 'service = "jmix_backend"', tables_backend.Backend),
    ("services.<name>", "built in: no registration is needed", tables_node.Registration),
    ("middleware_types.<name>", "as services", tables_node.Registration),
    ("provider.<name>", "", tables_node.Provider),
    ("runbeam", "", tables_node.Runbeam),
    ("management", "", tables_node.Management),
)


def text() -> str:
    """Returns the whole page, in Markdown."""
    lines = [_HEAD.rstrip("\n")]
    for path, note, model in _SECTIONS:
        lines += _section(path, note, model)
    return "\n".join(lines) + "\n"


def _section(path: str, note: str, model: type[Table]) -> Iterator[str]:
    tables: dict[str, FieldInfo] = {}
    for name, field in model.model_fields.items():
        seen = [table_of(other) for other in tables.values()]
        if _is_section(field) and table_of(field) not in seen:  # a second name is a row
            tables[name] = field
    rows = {name: field for name, field in model.model_fields.items() if name not in tables}
    ignored = [f"`{name}`" for name in model.IGNORED]
    if rows or ignored:
        yield from ("", f"### `[{path}]`" + f" – {note}" * bool(note), "")
    if rows:
        yield from ("| key | value | default | meaning |", "|---|---|---|---|")
        yield from (_row(name, field) for name, field in rows.items())
        yield from [""] * bool(ignored)
    if ignored:
        yield f"Accepted, without meaning here: {', '.join(ignored)}."
    for name, field in tables.items():
        inner = table_of(field)
        assert inner is not None
        below = f"{path}.{name}" + ".<entry>" * is_named(field)
        yield from _section(below, note, inner)


def _is_section(field: FieldInfo) -> bool:
    chain = field.annotation is tables_pipeline.Chain  # written as an array, as a rule
    return table_of(field) is not None and not option(field, "row") and not chain


def _row(name: str, field: FieldInfo) -> str:
    plus = "" if option(field, "reference") else " **+**"
    cells = (f"`{name}`{plus}", allowed(field), _default(field), field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**required**"
    default: Any = field.get_default(call_default_factory=True, validated_data={})
    if default is None:
        return str(option(field, "unset"))
    if isinstance(default, list | Table):
        return "`[]`"
    return f"`{shown(default)}`"


if __name__ == "__main__":
    Path("docs/configuration.md").write_text(text())
