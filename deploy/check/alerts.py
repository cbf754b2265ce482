"""Alerts and dashboards as files: rules tested both ways, runbooks that exist, panels that follow the rules."""

import json
import re

import yaml

from common import (
    ALERTS,
    CHECK,
    DASHBOARDS,
    ROOT,
    alert_rules,
    dashboard_queries,
    environment,
    expressions,
    run,
    verdict,
)

RUNBOOKS = ROOT / "docs" / "runbooks"
BASE = "https://github.com/inflection-io/inflection-source/blob/main/docs/runbooks/"


def rules():
    promtool = environment("CHECK_BIN") + "/promtool"
    done = run(promtool, "check", "rules", "--lint-fatal", ALERTS)
    verdict.check(done.returncode == 0, "the rules parse", done.stdout + done.stderr)
    tests = [CHECK / "alerts.test.yaml", CHECK / "alerts-days.test.yaml"]
    for test in tests:
        done = run(promtool, "test", "rules", test)
        verdict.check(done.returncode == 0, f"{test.name} holds", done.stdout + done.stderr)
    scenarios = [scenario for test in tests for scenario in yaml.safe_load(test.read_text())["tests"]]
    fires, quiet = set(), set()
    for scenario in scenarios:
        for case in scenario["promql_expr_test"]:
            fires |= {
                name for sample in case["exp_samples"] for name in re.findall(r'alertname="(\w+)"', sample["labels"])
            }
        if "quiet" in scenario["name"]:
            close = set(re.findall(r"Inflection\w+", scenario["name"]))
            wrong = {
                name for name in close for case in scenario["promql_expr_test"] if name in str(case["exp_samples"])
            }
            verdict.check(not wrong, f"scenario {scenario['name']!r} says what it expects", str(wrong))
            quiet |= close
    alerts = {rule["alert"]: rule for rule in alert_rules() if "alert" in rule}
    verdict.none([f"{name} fires in no scenario" for name in alerts.keys() - fires], "every alert is seen to fire")
    verdict.none(
        [f"{name} is quiet in no scenario" for name in alerts.keys() - quiet], "every alert is seen to be quiet"
    )
    pages = {path.stem for path in RUNBOOKS.glob("Inflection*.md")}
    verdict.check(
        pages == set(alerts), "every alert has a runbook, and every runbook an alert", str(pages ^ set(alerts))
    )
    index = (RUNBOOKS / "README.md").read_text()
    for name, rule in alerts.items():
        severity = rule["labels"]["severity"]
        notes = rule["annotations"]
        page = (RUNBOOKS / f"{name}.md").read_text() if name in pages else ""
        verdict.none(
            [
                what
                for what in [
                    severity not in ("page", "ticket") and f"severity {severity}",
                    notes.get("runbook_url") != f"{BASE}{name}.md" and "runbook_url",
                    not notes.get("summary") and "summary",
                    not notes.get("description") and "description",
                    f"*{severity.capitalize()}.*" not in page and f"the runbook does not say {severity}",
                    f"[{name}]({name}.md) | {severity} |" not in index
                    and "docs/runbooks/README.md does not list it so",
                ]
                if what
            ],
            f"{name} is complete",
        )
    everything = "\n".join(path.read_text() for path in RUNBOOKS.glob("*.md"))
    dead = [link for link in re.findall(r"\]\((Inflection\w+)\.md\)", everything) if link not in pages]
    verdict.none(dead, "runbooks link to pages that exist")


def label_values():
    """Values that expressions match by are words that the program writes: a misspelt one would match nothing, for ever."""
    source = "".join(path.read_text() for path in (ROOT / "crates").rglob("*.rs"))
    matched = {
        (label, value)
        for expression in expressions()
        for label, values in re.findall(r'\b(outcome|reason|code|fate)[!=]~?"([a-z_|]+)"', expression)
        for value in values.split("|")
    }
    verdict.check(len(matched) > 15, "expressions match by words", str(len(matched)))
    verdict.none(
        [f'{label}="{value}"' for label, value in sorted(matched) if f'"{value}"' not in source],
        "the program knows every word that is matched by",
    )


def dashboards():
    uids = set()
    for path in DASHBOARDS:
        board, mistakes = json.loads(path.read_text()), []
        variables = {variable["name"]: variable for variable in board["templating"]["list"]}
        ids = [panel["id"] for panel in board["panels"]]
        mistakes += [
            what
            for what in [
                board["uid"] in uids and "uid is not its own",
                len(ids) != len(set(ids)) and "panel ids repeat",
                board["editable"] and "can be edited",
                variables.get("datasource", {}).get("type") != "datasource" and "no data source variable",
                "namespace" not in variables and "no namespace variable",
                not board["links"] and "no links to the others",
            ]
            if what
        ]
        uids.add(board["uid"])
        occupied = set()
        for panel in board["panels"]:
            place = panel["gridPos"]
            cells = {
                (x, y)
                for x in range(place["x"], place["x"] + place["w"])
                for y in range(place["y"], place["y"] + place["h"])
            }
            if cells & occupied or place["x"] + place["w"] > 24:
                mistakes.append(f"{panel['title']}: lies on another panel")
            occupied |= cells
            if panel["type"] == "row":
                continue
            queries = [target["expr"] for target in panel["targets"]]
            mistakes += [
                f"{panel['title']}: {what}"
                for what in [
                    len(panel.get("description", "")) < 30 and "no description",
                    not panel["fieldConfig"]["defaults"].get("unit") and "no unit",
                    {target["datasource"]["uid"] for target in panel["targets"]} != {"${datasource}"}
                    and "not the data source variable",
                    any(re.search(r"(?<!\w)rate\([^()]*_total\b[^()]*\[\d+[sm]\]", e) for e in queries)
                    and "a rate over a fixed short window",
                    any(re.search(r"_total\{[^{}]*\}(?!\[)", e) for e in queries) and "a counter without rate",
                    any("$namespace" not in e for e in queries) and "not limited to the namespace",
                ]
                if what
            ]
        verdict.none(mistakes, f"{path.name} follows the rules")
    verdict.check(len(DASHBOARDS) == 4, "there are four dashboards")
    verdict.check(len(list(dashboard_queries())) > 50, "the panels have queries")


rules()
label_values()
dashboards()
verdict.end()
