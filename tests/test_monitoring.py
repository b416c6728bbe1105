"""contrib/: the alert rules and the dashboard name metrics that there are, and do what they say."""

from __future__ import annotations

import itertools
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
RULES = ROOT / "contrib/prometheus/fastjmix.rules.yml"
RULES_TEST = ROOT / "contrib/prometheus/fastjmix.rules.test.yml"
DASHBOARD: dict[str, Any] = json.loads((ROOT / "contrib/grafana/fastjmix.json").read_bytes())
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
TARGETS = [target for panel in PANELS for target in panel.get("targets", ())]

VARIABLES = {"$__rate_interval": "5m", "$job": ".*", "$instance": ".*"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool (Debian's prometheus) is missing"
)


def promtool(*arguments: object) -> str:
    done = subprocess.run(
        ["promtool", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documented() -> set[str]:
    """Returns the names of all samples, by docs/metrics.md."""
    text = (ROOT / "docs/metrics.md").read_text("utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \|", text, re.MULTILINE)
    found = set()
    for name, kind in rows:
        endings = ("_bucket", "_count", "_sum") if kind == "histogram" else ("",)
        found |= {f"fastjmix_{name}{ending}" for ending in endings}
    return found


def named(text: str) -> set[str]:
    return set(re.findall(r"\bfastjmix_\w+", text))


# -- alert rules -----------------------------------------------------------------------------------


@needs_promtool
def test_the_rules_fire_when_they_must_and_not_before() -> None:
    promtool("check", "rules", RULES)
    assert "SUCCESS" in promtool("test", "rules", RULES_TEST)


def test_each_alert_is_tested_both_ways() -> None:
    alerts = re.findall(r"^ +- alert: (\w+)$", RULES.read_text("utf-8"), re.MULTILINE)
    tests = RULES_TEST.read_text("utf-8")
    quiet = re.findall(r"alertname: (\w+)\n +exp_alerts: \[\]", tests)
    fires = re.findall(r"alertname: (\w+)\n +exp_alerts:\n +- exp_labels", tests)
    assert len(alerts) > 10
    assert set(alerts) == set(quiet) == set(fires)


def test_the_rules_name_metrics_that_there_are() -> None:
    for file in (RULES, RULES_TEST):
        bare = re.sub(r"(?m)^ *(#|description:|summary:).*$", "", file.read_text("utf-8"))
        assert len(named(bare)) > 10
        assert named(bare) - documented() == set()


# -- dashboard -------------------------------------------------------------------------------------


def test_the_dashboard_names_metrics_that_there_are() -> None:
    names = set().union(*(named(target["expr"]) for target in TARGETS))
    assert names - documented() == set()
    variables = DASHBOARD["templating"]["list"]
    assert set().union(*(named(str(one["query"])) for one in variables)) - documented() == set()


def test_the_dashboard_is_what_grafana_loads() -> None:
    """Its schema: panels with their own ids and places, and queries of its one data source."""
    assert DASHBOARD["title"] == DASHBOARD["uid"] == "fastjmix"
    assert DASHBOARD["schemaVersion"] >= 30
    assert [one["name"] for one in DASHBOARD["templating"]["list"]] == [
        "datasource",
        "job",
        "instance",
    ]
    ids = [panel["id"] for panel in PANELS]
    assert len(set(ids)) == len(ids)
    for one, other in itertools.combinations(PANELS, 2):
        assert not overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])
    for panel in PANELS:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
        if panel["type"] == "row":
            continue
        assert panel["type"] in ("timeseries", "stat")
        references = [target["refId"] for target in panel["targets"]]
        assert references
        assert len(set(references)) == len(references)
    assert {target["datasource"]["uid"] for target in TARGETS} == {"${datasource}"}
    rows = [panel["title"] for panel in PANELS if panel["type"] == "row"]
    assert {"Reception", "Latency", "Queue", "Upstreams", "Disk", "Errors"} <= set(rows)


def overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    across = one["x"] < other["x"] + other["w"] and other["x"] < one["x"] + one["w"]
    down = one["y"] < other["y"] + other["h"] and other["y"] < one["y"] + one["h"]
    return across and down


@needs_promtool
def test_prometheus_understands_the_queries_of_the_dashboard(tmp_path: Path) -> None:
    expressions = [target["expr"] for target in TARGETS]
    for variable, value in VARIABLES.items():
        expressions = [one.replace(variable, value) for one in expressions]
    rules = [{"record": f"query:{n}", "expr": one} for n, one in enumerate(expressions)]
    file = tmp_path / "queries.yml"
    file.write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))
    assert f"{len(rules)} rules found" in promtool("check", "rules", file)
