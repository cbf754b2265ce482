"""The chart: linted and rendered by Helm 3 and 4 with every ci/*.yaml, equal in both, valid for three Kubernetes versions and for
the custom resources' types, and as the project wants its objects to be. Also what must be refused."""

import concurrent.futures
import json
import pathlib
import re
import tempfile

import kubernetes_validate
import yaml

from common import (
    CHART,
    CHECK,
    DEPLOY,
    PREFIX,
    environment,
    helm,
    helm_template,
    objects,
    run,
    verdict,
    workspace_version,
)
from rules import pods, production_rules, restricted, stage_rules
from running import SendGrid

KUBERNETES = ("1.30", "1.34", "1.37")
TYPES = {
    "ScaledObject": "@kubernetes-models/keda/keda.sh/v1alpha1/ScaledObject",
    "PodMonitor": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PodMonitor",
    "PrometheusRule": "@kubernetes-models/prometheus-operator/monitoring.coreos.com/v1/PrometheusRule",
    "ExternalSecret": "@kubernetes-models/external-secrets/external-secrets.io/v1/ExternalSecret",
    "HTTPRoute": "@kubernetes-models/gateway-api/gateway.networking.k8s.io/v1/HTTPRoute",
}
# Values that must not render, and a word of the reason.
REFUSED = {
    "deliverry.replicas=2": "deliverry",
    "delivery.replicas=two": "integer",
    "delivery.replicas=65": "65 workers for 64 partitions",
    "identity.hpa.enabled=true,identity.hpa.maxReplicas=100": "100 workers for 64 partitions",
    "delivery.keda.enabled=true,delivery.hpa.enabled=true": "enable one",
    "delivery.keda.enabled=true": "serverAddress",
    "provision.replicas=1": "allowDegraded",
    "provision.partitions=1000": "512",
    "image.digest=latest": "digest",
    "nats.urls=null": "nats.urls is empty",
    "nats.urls={nats}": "nats",
    "config.workspaces=": "config.workspaces",
    "admin.existingSecret.name=": "admin",
    "secrets.create.enabled=true": "secrets",
    "config.existingSecret=mine": "config.workspaces",
}


def render(job):
    major, values = job
    done = helm_template(values, "email", major)
    return done.stdout if done.returncode == 0 else None, done.stderr


def versions():
    expected, found = workspace_version(), {}
    found["Chart.yaml appVersion"] = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    found["Dockerfile VERSION"] = re.search(r"^ARG VERSION=(.+)$", (DEPLOY / "Dockerfile").read_text(), re.M).group(1)
    found["compose image"] = re.search(
        r"image: inflection-source:(.+)$", (DEPLOY / "compose.yaml").read_text(), re.M
    ).group(1)
    found["ci/trial.yaml image"] = re.search(
        r"image: inflection-source:(.+)$", (CHART / "ci/trial.yaml").read_text(), re.M
    ).group(1)
    for where, version in found.items():
        verdict.check(version == expected, f"{where} is the workspace's version", f"{version}, not {expected}")


def lint(all_values):
    for major in (3, 4):
        for values in all_values:
            done = helm(major, "lint", "--strict", "--quiet", CHART, "--values", values)
            verdict.check(done.returncode == 0, f"helm {major} lint {values.name}", done.stdout + done.stderr)


def refusals():
    for change, word in REFUSED.items():
        for major in (3, 4):
            done = helm(major, "template", "acme", CHART, "--values", CHART / "ci/minimal.yaml", "--set", change)
            refused = done.returncode != 0 and word in done.stderr
            verdict.check(refused, f"helm {major} refuses {change}", f"with {done.returncode}: {done.stderr[-300:]}")


def notes(all_values):
    """NOTES.txt, which only a dry install renders; Helm 3 wants a cluster even for that."""
    for values in all_values:
        done = helm(4, "install", "acme", CHART, "--namespace", "email", "--values", values, "--dry-run=client")
        text = done.stdout.partition("NOTES:")[2]
        verdict.check(
            "helm test acme" in text and "<no value>" not in text, f"NOTES.txt for {values.name}", done.stderr + text
        )
        verdict.check(
            ("plain text" in text) == (values.name == "trial.yaml"),
            f"NOTES.txt warns of plain secrets, {values.name}",
            text,
        )


def core_schemas(rendered):
    """Strict: a field that Kubernetes does not know is a mistake."""
    for name, documents in rendered.items():
        for version in KUBERNETES:
            mistakes = []
            for document in documents:
                if document["kind"] in TYPES:
                    continue
                try:
                    kubernetes_validate.validate(document, version, strict=True)
                except kubernetes_validate.ValidationError as error:
                    mistakes.append(
                        f"{document['kind']} {document['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}"
                    )
                except kubernetes_validate.SchemaNotFoundError as error:
                    mistakes.append(f"{document['kind']}: {error}")
            verdict.none(mistakes, f"{name} is valid in Kubernetes {version}")


def custom_types(rendered):
    """Custom resources against their published types: TypeScript refuses unknown fields in literals, at every depth."""
    lines = [f'import type {{ I{kind} }} from "{module}";' for kind, module in TYPES.items()]
    where, seen = {}, set()
    for name, documents in rendered.items():
        for document in documents:
            if document["kind"] in TYPES:
                seen.add(document["kind"])
                lines.append(f"export const o{len(lines)}: I{document['kind']} = {json.dumps(document)};")
                where[len(lines)] = f"{name}: {document['kind']} {document['metadata']['name']}"
    verdict.check(
        seen == set(TYPES), "every kind of custom resource is rendered by some ci values", str(set(TYPES) - seen)
    )
    node = pathlib.Path(environment("CHECK_NODE"))
    with tempfile.TemporaryDirectory(dir=node) as folder:
        source = pathlib.Path(folder) / "objects.ts"
        source.write_text("\n".join(lines) + "\n")
        done = run(
            node / "node_modules/.bin/tsc",
            "--noEmit",
            "--strict",
            "--skipLibCheck",
            "--module",
            "nodenext",
            "--moduleResolution",
            "nodenext",
            source,
        )
    mistakes = [
        f"{where.get(int(at), at)}: {text}" for at, text in re.findall(r"\((\d+),\d+\): error (.+)", done.stdout)
    ]
    verdict.check(done.returncode == 0 or mistakes, "the TypeScript compiler runs", done.stdout + done.stderr)
    verdict.none(mistakes, f"{len(where)} custom resources have the published types")


def policies(folder):
    production = folder / "production.yaml"
    for what, arguments in {
        "production.yaml": ["kubernetes", "-f", production],
        "Dockerfile": ["dockerfile", "-f", DEPLOY / "Dockerfile"],
    }.items():
        done = run(
            environment("CHECK_BIN") + "/checkov",
            "--skip-download",
            "--config-file",
            CHECK / "checkov.yaml",
            "--framework",
            *arguments,
        )
        counted = re.search(r"Passed checks: (\d+), Failed checks: (\d+)", done.stdout)
        good = done.returncode == 0 and counted and int(counted.group(1)) > 20
        verdict.check(good, f"checkov is content with {what}", done.stdout[-1500:] + done.stderr[-500:])


def program_takes(name, documents, folder, sendgrid_key):
    """The rendered arguments and environment are the program's own, and so is the configuration file, which is refused with
    a key of SendGrid's that is none."""
    binary, mistakes = environment("CHECK_BINARY"), []
    for owner, template in pods(documents):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            variables = {
                v["name"]: v.get("value", "x") for v in container.get("env", []) if v["name"].startswith("INFLECTION_")
            }
            known = " ".join(run(binary, container["args"][0], "--help").stdout.split())
            mistakes += [
                f"{owner['metadata']['name']}: {variable} is unknown"
                for variable in variables
                if f"[env: {variable}" not in known
            ]
            done = run(binary, *container["args"], "--help", env=variables)
            if done.returncode != 0:
                mistakes.append(f"{owner['metadata']['name']}: {done.stderr.strip()}")
    verdict.none(mistakes, f"{name}: the program takes these arguments and this environment")
    secrets = folder / "secrets"
    for document in documents:
        text = document.get("data", {}).get("source.toml") if document["kind"] == "ConfigMap" else None
        if not text:
            continue
        for path in re.findall(rf'file = "{PREFIX}(.+?)"', text):
            target = secrets / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(sendgrid_key if "sendgrid" in path else "00" * 32)
        source = folder / "source.toml"
        source.write_text(text.replace(PREFIX, f"{secrets}/"))
        if "[[workspaces]]" not in text:
            continue
        done = run(binary, "config", "check", "--config", source, "--allow-insecure-endpoint=true")
        verdict.check(done.returncode == 0, f"{name}: {document['metadata']['name']} is a configuration", done.stderr)


def scaling_queries(documents):
    """KEDA's queries, taken from the rendered objects, against the states of queries.test.yaml."""
    rules = []
    for document in documents:
        if document["kind"] == "ScaledObject":
            stage = document["metadata"]["name"].rsplit("-", 1)[1]
            (trigger,) = document["spec"]["triggers"]
            rules.append({"record": f"query:{stage}", "expr": trigger["metadata"]["query"]})
    verdict.check(len(rules) == 2, "two stages are scaled by KEDA")
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "queries.yaml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
        (folder / "queries.test.yaml").write_text((CHECK / "queries.test.yaml").read_text())
        done = run(environment("CHECK_BIN") + "/promtool", "test", "rules", folder / "queries.test.yaml")
    verdict.check(
        done.returncode == 0,
        "KEDA's queries ask for workers when workers help, and only then",
        done.stdout + done.stderr,
    )


def main():
    all_values = sorted((CHART / "ci").glob("*.yaml"))
    versions()
    lint(all_values)
    refusals()
    notes(all_values)
    jobs = [(major, values) for values in all_values for major in (3, 4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = dict(zip(jobs, pool.map(render, jobs)))
    rendered = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for values in all_values:
            texts = {major: results[(major, values)] for major in (3, 4)}
            for major, (text, why) in texts.items():
                verdict.check(text, f"helm {major} renders {values.name}", why)
            if not all(text for text, _ in texts.values()):
                continue
            verdict.check(objects(texts[3][0]) == objects(texts[4][0]), f"Helm 3 and 4 render {values.name} alike")
            verdict.check("<no value>" not in texts[4][0], f"{values.name} leaves nothing open")
            rendered[values.name] = objects(texts[4][0])
            (folder / values.name).write_text(texts[4][0])
        core_schemas(rendered)
        custom_types(rendered)
        policies(folder)
        sendgrid = SendGrid(folder)
        for name, documents in rendered.items():
            restricted(name, documents, user_wanted=name != "openshift.yaml")
            stage_rules(name, documents, yaml.safe_load((CHART / "ci" / name).read_text()))
            program_takes(name, documents, folder, sendgrid.public)
    production_rules(rendered.get("production.yaml", []))
    scaling_queries(rendered.get("keda.yaml", []))
    verdict.end()


main()
