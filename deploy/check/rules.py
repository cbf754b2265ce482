"""What the project wants of rendered objects, beyond what Kubernetes would take."""

import re

from common import STAGES, verdict

# Seconds that a stage may take to leave, from the constants of the program: requests in hand 10, appends in hand 10 (ingest);
# a partition's hand-over 15 and a last snapshot 2 (identity); answers 15, positions 10, hand-over 15 (delivery); the admin
# listener 3.
LEAVING = {"ingest": 10 + 10 + 3, "identity": 15 + 2 + 3, "delivery": 15 + 10 + 15 + 3}
# A stage's books are read every 10 s, and a scrape is at most 30 s old.
BOOKS_AND_SCRAPE = 10 + 30


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
            wrong.append(
                not {"configMap", "secret", "emptyDir", "projected"} & set(volume) and f"has volume {volume['name']}"
            )
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
            wrong += [
                mount["name"] not in names and f"mounts {mount['name']}, which is no volume"
                for mount in container.get("volumeMounts", [])
            ]
            wrong += [
                "subPath" in mount and "uses subPath, which is never renewed"
                for mount in container.get("volumeMounts", [])
            ]
            for variable in container.get("env", []):
                # The name of a file is none.
                secret = re.search("(KEY|SECRET|TOKEN|PASSWORD)(?!_FILE)", variable["name"])
                wrong.append(secret and "value" in variable and f"has {variable['name']} in plain text")
        mistakes += [f"{who} {what}" for what in wrong if what]
    verdict.none(mistakes, f"{name}: pods meet the restricted profile")


def stage_rules(name, documents, values):
    mistakes = []
    by_kind = lambda kind: [document for document in documents if document["kind"] == kind]
    deployments = {
        document["spec"]["template"]["metadata"]["labels"]["app.kubernetes.io/component"]: document
        for document in by_kind("Deployment")
    }
    if set(deployments) != set(STAGES):
        mistakes.append(f"stages are {sorted(deployments)}")
    scalers = by_kind("HorizontalPodAutoscaler") + by_kind("ScaledObject")
    for stage, document in deployments.items():
        spec, template = document["spec"], document["spec"]["template"]
        labels, pod = template["metadata"]["labels"], template["spec"]
        (main,) = [container for container in pod["containers"] if container["name"] == stage]
        scaler = [
            scaler for scaler in scalers if scaler["spec"]["scaleTargetRef"]["name"] == document["metadata"]["name"]
        ]
        least = (
            scaler[0]["spec"].get("minReplicas", scaler[0]["spec"].get("minReplicaCount"))
            if scaler
            else spec.get("replicas")
        )
        budgets = [
            budget
            for budget in by_kind("PodDisruptionBudget")
            if selects(budget["spec"]["selector"]["matchLabels"], labels)
        ]
        probes = [
            main.get(kind, {}).get("httpGet", {}).get("path")
            for kind in ("startupProbe", "readinessProbe", "livenessProbe")
        ]
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
            {constraint["topologyKey"] for constraint in pod.get("topologySpreadConstraints", [])}
            != {"topology.kubernetes.io/zone", "kubernetes.io/hostname"}
            and "is not spread",
            not {f"app.kubernetes.io/{key}" for key in wanted} <= set(labels) and "lacks labels",
            main["args"][0] != stage and f"runs {main['args'][0]}",
        ]
        mistakes += [f"{stage} {what}" for what in wrong if what]
    for service in by_kind("Service"):
        found = [
            d
            for d in deployments.values()
            if selects(service["spec"]["selector"], d["spec"]["template"]["metadata"]["labels"])
        ]
        ports = {
            port["name"]
            for d in found
            for c in d["spec"]["template"]["spec"]["containers"]
            for port in c.get("ports", [])
        }
        if len(found) != 1 or not {port["targetPort"] for port in service["spec"]["ports"]} <= ports:
            mistakes.append(
                f"Service {service['metadata']['name']} leads to {len(found)} stages, ports {sorted(ports)}"
            )
    for monitor in by_kind("PodMonitor"):
        chosen = [
            owner["metadata"]["name"]
            for owner, template in pods(documents)
            if selects(monitor["spec"]["selector"]["matchLabels"], template["metadata"]["labels"])
            and all(
                template["metadata"]["labels"].get(e["key"]) in e["values"]
                for e in monitor["spec"]["selector"]["matchExpressions"]
            )
        ]
        if len(chosen) != 3:
            mistakes.append(f"the PodMonitor chooses {chosen}")
    names = {document["metadata"]["name"] for document in by_kind("Deployment")}
    for scaler in scalers:
        spec = scaler["spec"]
        if spec["scaleTargetRef"]["name"] not in names:
            mistakes.append(f"{scaler['metadata']['name']} scales nothing")
        most, partitions = (
            spec.get("maxReplicas", spec.get("maxReplicaCount")),
            values.get("provision", {}).get("partitions", 64),
        )
        if not scaler["metadata"]["name"].endswith("-ingest") and most > partitions:
            mistakes.append(f"{scaler['metadata']['name']} may go to {most}")
        if scaler["kind"] == "ScaledObject":
            mistakes += scaled_object(scaler, deployments)
    policies_there = by_kind("NetworkPolicy")
    for owner, template in pods(documents) if policies_there else []:
        closed = [
            p
            for p in policies_there
            if p["metadata"]["name"].endswith("-default")
            and selects(p["spec"]["podSelector"]["matchLabels"], template["metadata"]["labels"])
        ]
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
            mistakes.append(
                f"scales up after {window} s, while an outage looks like work for {park_after + BOOKS_AND_SCRAPE} s"
            )
    return mistakes


def production_rules(documents):
    kinds = [document["kind"] for document in documents]
    verdict.check("Secret" not in kinds, "production.yaml has no Secret in plain text")
    verdict.check("NetworkPolicy" in kinds, "production.yaml has network policies")
    images = {
        c["image"]
        for _, template in pods(documents)
        for c in template["spec"]["containers"] + template["spec"].get("initContainers", [])
    }
    verdict.check(all("@sha256:" in image for image in images), "production.yaml has images by digest", str(images))
