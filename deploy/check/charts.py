"""The chart: linted and rendered by Helm 3 and 4 with every ci/*.yaml, equal in both, valid for three Kubernetes versions and for
the custom resources' types, and as the project wants its objects to be. Also what must be refused."""

import concurrent.futures
import json
import pathlib
import re
import subprocess
import tempfile

import kubernetes_validate
import yaml
from common import CHART, CHECK, DEPLOY, PREFIX, ROOT, STAGES, Verdict, environment, run, workspace_version

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
# Seconds that a stage may take to leave, from the constants of the program: requests in hand 10, appends in hand 10 (ingest);
# a partition's hand-over 15 and a last snapshot 2 (identity); answers 15, positions 10, hand-over 15 (delivery); the admin
# listener 3.
LEAVING = {"ingest": 10 + 10 + 3, "identity": 15 + 2 + 3, "delivery": 15 + 10 + 15 + 3}
# A stage's books are read every 10 s, and a scrape is at most 30 s old.
BOOKS_AND_SCRAPE = 10 + 30

verdict = Verdict()


def helm(major, *arguments):
    return run(environment("CHECK_BIN") + f"/helm{major}", *arguments)


def render(job):
    major, values, version = job
    more = ["--kube-version", version] if version else []
    done = helm(major, "template", "acme", CHART, "--namespace", "email", "--values", values, *more)
    return done.stdout if done.returncode == 0 else None, done.stderr


def objects(text):
    return [document for document in yaml.safe_load_all(text) if document]


def versions():
    expected, found = workspace_version(), {}
    found["Chart.yaml appVersion"] = yaml.safe_load((CHART / "Chart.yaml").read_text())["appVersion"]
    found["Dockerfile VERSION"] = re.search(r"^ARG VERSION=(.+)$", (DEPLOY / "Dockerfile").read_text(), re.M).group(1)
    found["compose image"] = re.search(r"image: inflection-source:(.+)$", (DEPLOY / "compose.yaml").read_text(), re.M).group(1)
    found["ci/trial.yaml image"] = re.search(r"image: inflection-source:(.+)$", (CHART / "ci/trial.yaml").read_text(), re.M).group(1)
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
        verdict.check("helm test acme" in text and "<no value>" not in text, f"NOTES.txt for {values.name}", done.stderr + text)
        verdict.check(("plain text" in text) == (values.name == "trial.yaml"), f"NOTES.txt warns of plain secrets, {values.name}", text)


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
                    mistakes.append(f"{document['kind']} {document['metadata']['name']}: {'.'.join(map(str, error.path))}: {error.message}")
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
    verdict.check(seen == set(TYPES), "every kind of custom resource is rendered by some ci values", str(set(TYPES) - seen))
    node = pathlib.Path(environment("CHECK_NODE"))
    with tempfile.TemporaryDirectory(dir=node) as folder:
        source = pathlib.Path(folder) / "objects.ts"
        source.write_text("\n".join(lines) + "\n")
        done = run(node / "node_modules/.bin/tsc", "--noEmit", "--strict", "--skipLibCheck", "--module", "nodenext",
                   "--moduleResolution", "nodenext", source)
    mistakes = [f"{where.get(int(at), at)}: {text}" for at, text in re.findall(r"\((\d+),\d+\): error (.+)", done.stdout)]
    verdict.check(done.returncode == 0 or mistakes, "the TypeScript compiler runs", done.stdout + done.stderr)
    verdict.none(mistakes, f"{len(where)} custom resources have the published types")


def policies(folder):
    production = folder / "production.yaml"
    for what, arguments in {"production.yaml": ["kubernetes", "-f", production], "Dockerfile": ["dockerfile", "-f", DEPLOY / "Dockerfile"]}.items():
        done = run(environment("CHECK_BIN") + "/checkov", "--skip-download", "--config-file", CHECK / "checkov.yaml", "--framework", *arguments)
        counted = re.search(r"Passed checks: (\d+), Failed checks: (\d+)", done.stdout)
        good = done.returncode == 0 and counted and int(counted.group(1)) > 20
        verdict.check(good, f"checkov is content with {what}", done.stdout[-1500:] + done.stderr[-500:])


def selects(selector, labels):
    return all(labels.get(key) == value for key, value in (selector or {}).items())


def pods(documents):
    """(object, pod template) of everything that makes pods."""
    for document in documents:
        if document["kind"] in ("Deployment", "Job"):
            yield document, document["spec"]["template"]
        if document["kind"] == "Pod":
            yield document, document


def restricted(name, documents, user_wanted):
    mistakes = []
    for owner, template in pods(documents):
        spec, who = template["spec"], f"{owner['kind']} {owner['metadata']['name']}"
        outer = spec.get("securityContext", {})
        wrong = [
            spec.get("automountServiceAccountToken") is not False and "automounts a token",
            outer.get("runAsNonRoot") is not True and "may run as root",
            outer.get("seccompProfile", {}).get("type") != "RuntimeDefault" and "has no seccomp profile",
            user_wanted and outer.get("runAsUser") != 65532 and "has no user",
            not user_wanted and "runAsUser" in outer and "has a user",
        ]
        for volume in spec.get("volumes", []):
            wrong.append(not {"configMap", "secret", "emptyDir", "projected"} & set(volume) and f"has volume {volume['name']}")
        names = {volume["name"] for volume in spec.get("volumes", [])}
        for container in spec["containers"] + spec.get("initContainers", []):
            inner = container.get("securityContext", {})
            wrong += [
                inner.get("allowPrivilegeEscalation") is not False and "may escalate",
                inner.get("readOnlyRootFilesystem") is not True and "has a writable root",
                inner.get("capabilities", {}).get("drop") != ["ALL"] and "keeps capabilities",
                "memory" not in container.get("resources", {}).get("limits", {}) and "has no memory limit",
                "cpu" in container.get("resources", {}).get("limits", {}) and "has a CPU limit",
            ]
            wrong += [mount["name"] not in names and f"mounts {mount['name']}, which is no volume" for mount in container.get("volumeMounts", [])]
            wrong += ["subPath" in mount and "uses subPath, which is never renewed" for mount in container.get("volumeMounts", [])]
            for variable in container.get("env", []):
                secret = re.search("KEY|SECRET|TOKEN|PASSWORD", variable["name"])
                wrong.append(secret and "value" in variable and f"has {variable['name']} in plain text")
        mistakes += [f"{who} {what}" for what in wrong if what]
    verdict.none(mistakes, f"{name}: pods meet the restricted profile")


def stage_rules(name, documents, values):
    mistakes = []
    by_kind = lambda kind: [document for document in documents if document["kind"] == kind]
    deployments = {document["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: document for document in by_kind("Deployment")}
    if set(deployments) != set(STAGES):
        mistakes.append(f"stages are {sorted(deployments)}")
    scalers = by_kind("HorizontalPodAutoscaler") + by_kind("ScaledObject")
    for stage, document in deployments.items():
        spec, template = document["spec"], document["spec"]["template"]
        labels, pod = template["metadata"]["labels"], template["spec"]
        (main,) = [container for container in pod["containers"] if container["name"] == stage]
        scaler = [scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"]["name"] == document["metadata"]["name"]]
        least = scaler[0]["spec"].get("minReplicas", scaler[0]["spec"].get("minReplicaCount")) if scaler else spec.get("replicas")
        budgets = [budget for budget in by_kind("PodDisruptionBudget") if selects(budget["spec"]["selector"]["matchLabels"], labels)]
        probes = [main.get(kind, {}).get("httpGet", {}).get("path") for kind in ("startupProbe", "readinessProbe", "livenessProbe")]
        leaving = LEAVING[stage] + main.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
        wanted = {"name", "instance", "component", "part-of", "version", "managed-by"}
        wrong = [
            scaler and "replicas" in spec and "has replicas beside its autoscaler",
            not scaler and "replicas" not in spec and "has no replicas",
            least >= 2 and len(budgets) != 1 and f"has {len(budgets)} disruption budgets",
            least < 2 and budgets and "has a disruption budget that blocks every drain",
            not selects(spec["selector"]["matchLabels"], labels) and "does not select its own pods",
            probes != ["/startupz", "/readyz", "/livez"] and f"has the probes {probes}",
            pod["terminationGracePeriodSeconds"] < leaving and f"may take {leaving} s to leave and is killed before",
            {constraint["topologyKey"] for constraint in pod.get("topologySpreadConstraints", [])} != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"} and "is not spread",
            not {f"app.kubernetes.io/{key}" for key in wanted} <= set(labels) and "lacks labels",
            main["args"][0] != stage and f"runs {main['args'][0]}",
        ]
        mistakes += [f"{stage} {what}" for what in wrong if what]
    for service in by_kind("Service"):
        found = [d for d in deployments.values() if selects(service["spec"]["selector"], d["spec"]["template"]["metadata"]["labels"])]
        ports = {port["name"] for d in found for c in d["spec"]["template"]["spec"]["containers"] for port in c.get("ports", [])}
        if len(found) != 1 or not {port["targetPort"] for port in service["spec"]["ports"]} <= ports:
            mistakes.append(f"Service {service['metadata']['name']} leads to {len(found)} stages, ports {sorted(ports)}")
    for monitor in by_kind("PodMonitor"):
        chosen = [owner["metadata"]["name"] for owner, template in pods(documents)
                  if selects(monitor["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
                  and all(template["metadata"]["labels"].get(e["key"]) in e["values"] for e in monitor["spec"]["selector"]["matchExpressions"])]
        if len(chosen) != 3:
            mistakes.append(f"the PodMonitor chooses {chosen}")
    names = {document["metadata"]["name"] for document in by_kind("Deployment")}
    for scaler in scalers:
        spec = scaler["spec"]
        if spec["scaleTargetRef"]["name"] not in names:
            mistakes.append(f"{scaler['metadata']['name']} scales nothing")
        most, partitions = spec.get("maxReplicas", spec.get("maxReplicaCount")), values.get("provision", {}).get("partitions", 64)
        if not scaler["metadata"]["name"].endswith("-ingest") and most > partitions:
            mistakes.append(f"{scaler['metadata']['name']} may go to {most}")
        if scaler["kind"] == "ScaledObject":
            mistakes += scaled_object(scaler, deployments)
    policies_there = by_kind("NetworkPolicy")
    for owner, template in pods(documents) if policies_there else []:
        closed = [p for p in policies_there if p["metadata"]["name"].endswith("-default") and selects(p["spec"]["podSelector"]["matchLabels"], template["metadata"]["labels"])]
        if len(closed) != 1:
            mistakes.append(f"{owner['metadata']['name']} is not closed by the default policy")
    verdict.none(mistakes, f"{name}: stages are as they should be")


def scaled_object(scaler, deployments):
    spec, mistakes = scaler["spec"], []
    for trigger in spec["triggers"]:
        if not all(isinstance(value, str) for value in trigger["metadata"].values()):
            mistakes.append("trigger metadata must be strings")
    if spec["minReplicaCount"] < 1:
        mistakes.append("the gauges live in the pods that are scaled: never to zero")
    if scaler["metadata"]["name"].endswith("-delivery"):
        arguments = deployments["delivery"]["spec"]["template"]["spec"]["containers"][0]["args"]
        (park_after,) = [int(a.split("=")[1]) for a in arguments if a.startswith("--park-after-seconds=")]
        window = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleUp"]["stabilizationWindowSeconds"]
        if window < park_after + BOOKS_AND_SCRAPE:
            mistakes.append(f"scales up after {window} s, while an outage looks like work for {park_after + BOOKS_AND_SCRAPE} s")
    return mistakes


def production_rules(documents):
    kinds = [document["kind"] for document in documents]
    verdict.check("Secret" not in kinds, "production.yaml has no Secret in plain text")
    verdict.check("NetworkPolicy" in kinds, "production.yaml has network policies")
    images = {c["image"] for _, template in pods(documents) for c in template["spec"]["containers"] + template["spec"].get("initContainers", [])}
    verdict.check(all("@sha256:" in image for image in images), "production.yaml has images by digest", str(images))


def program_takes(name, documents, folder):
    """The rendered arguments and environment are the program's own, and so is the configuration file."""
    binary, mistakes = environment("CHECK_BINARY"), []
    for owner, template in pods(documents):
        for container in template["spec"]["containers"] + template["spec"].get("initContainers", []):
            variables = {v["name"]: v.get("value", "x") for v in container.get("env", []) if v["name"].startswith("INFLECTION_")}
            known = " ".join(run(binary, container["args"][0], "--help").stdout.split())
            mistakes += [f"{owner['metadata']['name']}: {variable} is unknown" for variable in variables if f"[env: {variable}" not in known]
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
            key = re.search("sendgrid", path) and SENDGRID_KEY
            target.write_text(key or "00" * 32)
        source = folder / "source.toml"
        source.write_text(text.replace(PREFIX, f"{secrets}/"))
        if "[[workspaces]]" not in text:
            continue
        done = run(binary, "config", "check", "--config", source, "--allow-insecure-endpoint=true")
        verdict.check(done.returncode == 0, f"{name}: {document['metadata']['name']} is a configuration", done.stderr)


# Any P-256 key; the configuration is refused with something that is none.
SENDGRID_KEY = subprocess.run(
    "openssl ecparam -name prime256v1 -genkey -noout | openssl ec -pubout -outform DER 2>/dev/null | base64 -w0",
    shell=True, capture_output=True, text=True, check=True).stdout


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
    verdict.check(done.returncode == 0, "KEDA's queries ask for workers when workers help, and only then", done.stdout + done.stderr)


def main():
    all_values = sorted((CHART / "ci").glob("*.yaml"))
    versions()
    lint(all_values)
    refusals()
    notes(all_values)
    jobs = [(major, values, None) for values in all_values for major in (3, 4)]
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        results = dict(zip(jobs, pool.map(render, jobs)))
    rendered = {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for values in all_values:
            texts = {major: results[(major, values, None)] for major in (3, 4)}
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
        for name, documents in rendered.items():
            restricted(name, documents, user_wanted=name != "openshift.yaml")
            stage_rules(name, documents, yaml.safe_load((CHART / "ci" / name).read_text()))
            program_takes(name, documents, folder)
    production_rules(rendered.get("production.yaml", []))
    scaling_queries(rendered.get("keda.yaml", []))
    verdict.end()


main()
