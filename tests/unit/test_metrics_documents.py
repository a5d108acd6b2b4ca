"""What is written about the metrics is so: every query of the dashboard and of the alerts finds series in a scrape of
a real ring, and the table in docs/operating.md is the one in the code."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from prometheus_client import CollectorRegistry
from prometheus_client.samples import Sample
from promql_parser import AggregateExpr, BinaryExpr, Expr, MatchOp, VectorSelector

from shmtransport import Reader, Ring, observing
from shmtransport.metrics import METRICS, Collector
from tests.support import ROOT

TARGET = {"job": "vllm", "instance": "localhost:8000"}
"""The labels that Prometheus adds."""
DASHBOARD = json.loads((ROOT / "docs" / "metrics" / "grafana.json").read_text())
ALERTS = yaml.safe_load((ROOT / "docs" / "metrics" / "alerts.yaml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
PANELS: list[Any] = DASHBOARD["panels"]
TARGETS = [target for panel in PANELS for target in panel["targets"]]
VARIABLES = [variable for variable in DASHBOARD["templating"]["list"] if variable["type"] == "query"]


@pytest.fixture
def samples(ring: Ring, reader: Reader) -> list[Sample]:
    """What Prometheus has after a scrape of a ring with a reader."""
    registry = CollectorRegistry()
    registry.register(Collector(lambda: [found for found in observing.rings() if found.ring_id == ring.id]))
    return [
        sample._replace(labels=sample.labels | TARGET) for family in registry.collect() for sample in family.samples
    ]


def parsed(query: str) -> Expr:
    """A query as Grafana sends it with "All" in each variable. Raises `ValueError` for what is no PromQL."""
    expression: Expr = promql_parser.parse(re.sub(r"\$\w+", ".*", query.replace("$__rate_interval", "1m")))
    return expression


def selectors_in(expression: Expr) -> list[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(node: Expr) -> None:
        if isinstance(node, VectorSelector):
            found.append(node)

    promql_parser.walk(expression, visit)
    return found


def groupings_in(expression: Expr) -> Iterator[tuple[list[str], Expr]]:
    """The labels of each ``by`` and ``on``, and what they are of."""
    nodes: list[Expr] = []
    promql_parser.walk(expression, nodes.append)
    for node in nodes:
        if isinstance(node, AggregateExpr) and node.modifier is not None:
            yield node.modifier.labels, node.expr
        elif isinstance(node, BinaryExpr) and node.modifier is not None and node.modifier.matching is not None:
            yield node.modifier.matching.labels, node


def selects(selector: VectorSelector, sample: Sample) -> bool:
    if sample.name != selector.name:
        return False
    for matcher in selector.matchers.matchers:
        value = sample.labels.get(matcher.name)
        if value is None:
            return False
        pattern = matcher.value if matcher.op in (MatchOp.Re, MatchOp.NotRe) else re.escape(matcher.value)
        if (re.fullmatch(pattern, value) is not None) != (matcher.op in (MatchOp.Re, MatchOp.Equal)):
            return False
    return True


def faults(query: str, samples: list[Sample]) -> list[str]:
    """What of a query is not in a scrape."""
    expression = parsed(query)
    nothing = [
        f"nothing is {selector}"
        for selector in selectors_in(expression)
        if not any(selects(selector, sample) for sample in samples)
    ]
    labels_of = {sample.name: sample.labels.keys() for sample in samples}
    return nothing + [
        f"{selector.name} has no label {label}"
        for labels, grouped in groupings_in(expression)
        for selector in selectors_in(grouped)
        for label in labels
        if label not in labels_of.get(selector.name or "", set())
    ]


def labels_left_by(expression: Expr, samples: list[Sample]) -> set[str]:
    """Labels of an answer: what is grouped by, else those of the metric; of two operands the first's."""
    if isinstance(expression, BinaryExpr):
        return labels_left_by(expression.lhs, samples)
    if isinstance(expression, AggregateExpr) and expression.modifier is not None:
        return set(expression.modifier.labels)
    (selector,) = selectors_in(expression)
    return next(set(sample.labels) for sample in samples if sample.name == selector.name)


def labels_in(text: str) -> set[str]:
    """Those that a legend or an annotation shows."""
    return set(re.findall(r"\{\{ *(?:\$labels\.)?(\w+) *\}\}", text))


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target["legendFormat"])
def test_every_query_of_the_dashboard_resolves(target: dict[str, Any], samples: list[Sample]) -> None:
    assert faults(target["expr"], samples) == []
    assert labels_in(target["legendFormat"]) <= labels_left_by(parsed(target["expr"]), samples)


@pytest.mark.parametrize("variable", VARIABLES, ids=lambda variable: variable["name"])
def test_every_variable_of_the_dashboard_has_values(variable: dict[str, Any], samples: list[Sample]) -> None:
    match = re.fullmatch(r"label_values\((.*), (\w+)\)", variable["query"]["query"])
    assert match is not None
    assert faults(f"sum by ({match[2]}) ({match[1]})", samples) == []
    assert match[2] == variable["name"]


def test_the_dashboard_uses_its_variables_and_no_others() -> None:
    known = {variable["name"] for variable in VARIABLES} | {"__rate_interval"}
    used = {name for target in TARGETS for name in re.findall(r"\$(\w+)", target["expr"])}
    assert used == known


def test_panels_neither_overlap_nor_share_an_id() -> None:
    places = [panel["gridPos"] for panel in PANELS]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)


def test_there_are_three_alerts_worth_waking_somebody() -> None:
    assert len(RULES) == 3
    assert {rule["labels"]["severity"] for rule in RULES} == {"page"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_resolves_and_says_what_is_seen_what_it_means_and_what_to_do(
    rule: dict[str, Any], samples: list[Sample]
) -> None:
    assert faults(rule["expr"], samples) == []
    shown = labels_in(rule["annotations"]["summary"] + rule["annotations"]["description"]) - {"value"}
    assert shown <= labels_left_by(parsed(rule["expr"]), samples)
    assert re.search(r"Seen: .* Meaning: .* Do: ", rule["annotations"]["description"])


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("shmtransport_nothing", "nothing is shmtransport_nothing{}"),
        ('shmtransport_rings{state="dead"}', 'nothing is shmtransport_rings{state="dead"}'),
        ('shmtransport_rings{ring=~"$ring"}', 'nothing is shmtransport_rings{ring=~".*"}'),
        ("sum by (role) (shmtransport_blocks)", "shmtransport_blocks has no label role"),
        (
            "shmtransport_leased_bytes / on (index) shmtransport_used_bytes",
            "shmtransport_used_bytes has no label index",
        ),
    ],
)
def test_a_query_that_does_not_resolve_is_found(query: str, fault: str, samples: list[Sample]) -> None:
    assert faults(query, samples) == [fault]


def test_what_is_no_promql_is_found(samples: list[Sample]) -> None:
    with pytest.raises(ValueError, match="promql"):
        faults("sum by ring (shmtransport_blocks)", samples)


def rows_of(document: Path) -> list[tuple[str, ...]]:
    """The rows about metrics: name, kind, labels, meaning."""
    lines = [line for line in document.read_text().splitlines() if line.startswith("| `shmtransport_")]
    return [tuple(cell.strip() for cell in line.strip("|").split("|")) for line in lines]


def test_the_table_in_the_documents_is_the_one_in_the_code() -> None:
    expected = [
        (f"`{metric.name}`", metric.kind, ", ".join(f"`{label}`" for label in metric.labels), metric.help)
        for metric in METRICS
    ]
    assert rows_of(ROOT / "docs" / "operating.md") == expected
