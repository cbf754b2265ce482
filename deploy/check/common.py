"""What the checks of scripts/check-deploy share: where things are, how a check is told, how a program is run."""

import json
import os
import pathlib
import re
import subprocess
import sys

import yaml

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
CHECK = DEPLOY / "check"
CHART = DEPLOY / "helm" / "inflection-source"
ALERTS = CHART / "files" / "alerts.yaml"
DASHBOARDS = sorted((CHART / "files" / "dashboards").glob("*.json"))
STAGES = ("ingest", "identity", "delivery")
PREFIX = "/etc/inflection-source/"


def environment(name):
    """A path that scripts/check-deploy has set."""
    value = os.environ.get(name)
    if not value:
        sys.exit(f"{name} is not set: run scripts/check-deploy")
    return value


class Verdict:
    """Counts checks; a failure is told at once and the rest goes on."""

    def __init__(self):
        self.passed, self.failed = 0, 0

    def check(self, good, what, why=""):
        if good:
            self.passed += 1
        else:
            self.failed += 1
            print(f"FAILED  {what}" + (f"\n        {why}" if why else ""), flush=True)
        return bool(good)

    def none(self, mistakes, what):
        """One check that fails with all mistakes found."""
        self.check(not mistakes, what, "\n        ".join(mistakes))

    def end(self):
        with open(environment("CHECK_TALLY"), "a") as tally:
            tally.write(f"{self.passed} {self.failed}\n")
        sys.exit(3 if self.failed else 0)


verdict = Verdict()


def run(*command, **options):
    """Runs a program to its end; its output is text."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False, **options)


def workspace_version():
    """The version in Cargo.toml, which everything else must have."""
    return re.search(r'^version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def helm(major, *arguments):
    return run(environment("CHECK_BIN") + f"/helm{major}", *arguments)


def helm_template(values, namespace, major=4):
    """Has Helm render the chart with a file of values."""
    return helm(major, "template", "acme", CHART, "--namespace", namespace, "--values", values)


def objects(text):
    """The objects in what Helm rendered; some of its documents are empty."""
    return [document for document in yaml.safe_load_all(text) if document]


def alert_rules():
    """Every rule of alerts.yaml, those that only record among them."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard_queries():
    """(file, panel, expression) of every target of every panel."""
    for path in DASHBOARDS:
        for panel in json.loads(path.read_text())["panels"]:
            for target in panel.get("targets", []):
                yield path.name, panel["title"], target["expr"]


def expressions():
    """All that Prometheus is asked: by rules, by panels, and by the scalers, both in one text that has lost its templating."""
    scalers = re.sub(r"{{.*?}}", "", (CHART / "templates/_queries.tpl").read_text(), flags=re.S)
    return [*(rule["expr"] for rule in alert_rules()), *(e for _, _, e in dashboard_queries()), scalers]


def metric_names(expression):
    """Names of ours, or of Prometheus' own, that an expression reads."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    found = set(
        re.findall(r"\b(inflection[a-z_]*(?::[a-z0-9_:]+)?|up|ALERTS|scrape_[a-z_]+)\b(?=\s*[{\[)\s/*+<>=-]|$)", bare)
    )
    return found
