"""The program, started as compose and the chart start it, on a real nats-server, and a short load. A real Prometheus scrapes
compose's stages and a standalone install, evaluates every alert, and answers every panel but those of what never happens here,
and delivery's scaler; both scalers' queries are tested by promtool (charts.py)."""

import json
import math
import pathlib
import re
import tempfile
import time
import urllib.error
import urllib.parse

import yaml

from common import (
    ALERTS,
    CHART,
    DEPLOY,
    PREFIX,
    STAGES,
    dashboard_queries,
    environment,
    expressions,
    helm_template,
    metric_names,
    objects,
    run,
    verdict,
)
from running import (
    NotStarted,
    Processes,
    SendGrid,
    engagement,
    fleet_ports,
    free_ports,
    get,
    load,
    monitored,
    nats,
    post,
    unbounded,
    until,
)

BINARY, BIN = environment("CHECK_BINARY"), pathlib.Path(environment("CHECK_BIN"))
# Prometheus asks once a second here, so $__rate_interval is four seconds as Grafana reckons it, and some more.
RATE_INTERVAL = "10s"
# Exported when it has happened, which is never here.
UNHEARD_OF = {
    "inflection_delivery_calls_suppressed_total",
    "inflection_ingest_alias_changes_total",
    "inflection_ingest_alias_lookups_total",
    "inflection_ingest_requests_limited_total",
    "inflection_ingest_unkept_total",
    "inflection_telemetry_spans_dropped_total",
}
# Prometheus' own.
FOREIGN = re.compile(r"^(up|ALERTS|scrape_\w+|inflection:.*)$")


def compose_fleet(processes, folder):
    """All of compose but its images. Returns the addresses of ingest, of the sandbox and of each admin listener."""
    rendered = run(BIN / "docker-compose", "-f", DEPLOY / "compose.yaml", "config", "--format", "json").stdout
    services = json.loads(rendered)["services"]
    ports = fleet_ports()
    nats(processes, folder, ports["nats"], ports["monitor"])
    sendgrid = SendGrid(folder)
    source = monitored((DEPLOY / "compose/source.toml").read_text(), ports["monitor"])
    source = source.replace("nats://nats:4222", f"nats://127.0.0.1:{ports['nats']}")
    source = source.replace(":8090", f":{ports['sandbox']}")
    # A second connection that leaves calls out, and a webhook, so that their metrics exist.
    source += f"""
[[workspaces.connections]]
id = "opens"
write_key = {{ value = "opens-write-key" }}
endpoint = "http://127.0.0.1:{ports["sandbox"]}"
events = ["email_opened"]
[[workspaces.webhooks]]
provider = "sendgrid"
token = "{sendgrid.TOKEN}"
secrets = [{{ value = "{sendgrid.public}" }}]
"""
    (folder / "source.toml").write_text(source)

    def command(name):
        arguments = [
            a.replace("0.0.0.0:8080", f"127.0.0.1:{ports['public']}").replace(
                "0.0.0.0:8090", f"127.0.0.1:{ports['sandbox']}"
            )
            for a in services[name]["command"]
        ]
        env = {
            key: value.replace("0.0.0.0:9090", f"127.0.0.1:{ports.get(name, 0)}").replace(
                "/etc/inflection-source", str(folder)
            )
            for key, value in services[name].get("environment", {}).items()
        }
        return [BINARY, *arguments], env

    faults = json.dumps({"rules": [{"fault": {"kind": "reject_item", "contains": "poison"}}]})
    processes.start("sandbox", command("sandbox")[0] + ["--faults", faults])
    line, env = command("provision")
    done = run(*line, env=env)
    verdict.check(done.returncode == 0, "compose's provision works", done.stderr)
    # One replica is all that may be missing: every write is synced, and it can be seen.
    told = set(re.findall(r"gap=(.+?)(?:: run|$)", re.sub(r"\x1b\[\d*m", "", done.stdout + done.stderr), re.M))
    verdict.check(
        told and all("replica" in gap for gap in told), "compose's nats-server keeps what it acknowledges", str(told)
    )
    for stage in STAGES:
        line, env = command(stage)
        # Small ones, so that snapshots are taken within seconds.
        processes.start(stage, line + (["--snapshot-every-bytes", "65536"] if stage == "identity" else []), env)
    test = services["ingest"]["healthcheck"]["test"]
    for stage in STAGES:
        asked = [BINARY, *[part.replace("9090", str(ports[stage])) for part in test[2:]]]
        if not until(f"compose's {stage} is healthy", lambda: run(*asked).returncode == 0):
            raise NotStarted(processes.log(stage))
    verdict.check(
        test[:2] == ["CMD", "/usr/local/bin/inflection-source"], "compose's health check asks the image's program"
    )
    return ports, sendgrid


def prometheus(processes, folder, targets, port):
    """compose's prometheus.yml with addresses of this machine, faster, and the alerts."""
    config = yaml.safe_load((DEPLOY / "compose/prometheus.yml").read_text())
    config["global"].update(scrape_interval="1s", evaluation_interval="5s")
    config["rule_files"] = [str(ALERTS)]
    (job,) = config["scrape_configs"]
    for group in job["static_configs"]:
        group["targets"] = [f"127.0.0.1:{targets[group['labels']['stage']]}"]
    job["static_configs"].append(
        {"targets": [f"127.0.0.1:{targets['standalone']}"], "labels": {"namespace": "standalone"}}
    )
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    processes.start(
        "prometheus",
        [
            BIN / "prometheus",
            f"--config.file={folder}/prometheus.yml",
            f"--storage.tsdb.path={folder}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
    )
    url = f"http://127.0.0.1:{port}"
    until("Prometheus is ready", lambda: get(f"{url}/-/ready"))
    return url


def query(url, expression):
    """Values of an instant query, and of a range query over the last seconds."""
    now, values = time.time(), []
    for path, more in (("query", {}), ("query_range", {"start": now - 20, "end": now, "step": "2"})):
        answer = json.loads(get(f"{url}/api/v1/{path}?" + urllib.parse.urlencode({"query": expression, **more})))
        for series in answer["data"]["result"]:
            values += [float(v) for _, v in series.get("values", [series.get("value")])]
    return values


def substituted(expression):
    for variable in ("namespace", "workspace", "connection"):
        expression = expression.replace(f"${variable}", ".*")
    return expression.replace("$__rate_interval", RATE_INTERVAL)


def panels(url):
    for file, title, expression in dashboard_queries():
        if UNHEARD_OF & set(metric_names(expression)):
            continue
        try:
            values = query(url, substituted(expression))
            good, why = any(math.isfinite(value) for value in values), f"{len(values)} values: {expression}"
        except urllib.error.HTTPError as error:
            good, why = False, f"{error.read().decode()[:300]}: {expression}"
        verdict.check(good, f"{file}, {title!r}: the query returns data", why)


def rules(url):
    groups = json.loads(get(f"{url}/api/v1/rules"))["data"]["groups"]
    found = [rule for group in groups for rule in group["rules"]]
    broken = [f"{rule['name']}: {rule.get('lastError')}" for rule in found if rule["health"] == "err"]
    verdict.check(len(found) > 40, "Prometheus has the rules", str(len(found)))
    verdict.none(broken, "every rule can be evaluated on the real metrics")
    firing = [rule["name"] for rule in found if rule.get("state") == "firing"]
    verdict.none(firing, "nothing fires while all is well")


def names(fleet, standalone):
    """Every name that is asked for exists in the running program, and every metric of it is asked for somewhere."""
    exported = lambda text: {
        re.sub(r"_(bucket|sum|count)$", "", n) for n in re.findall(r"^(inflection_\w+)[{ ]", text, re.M)
    }
    asked = set()
    for expression in expressions():
        asked |= {
            re.sub(r"_(bucket|sum|count)$", "", name) for name in metric_names(expression) if not FOREIGN.match(name)
        }
    there = exported(fleet)
    verdict.none(sorted(asked - there - UNHEARD_OF), "every metric that is asked for is one of the running fleet's")
    verdict.none(sorted(there - asked), "every metric of the running fleet is shown or alerted on")
    # Webhooks, left out and dead calls are not part of the standalone's load.
    rare = {
        # Bounded by its disk only.
        "inflection_bus_store_bytes_max",
        "inflection_ingest_events_unmapped_total",
        "inflection_delivery_calls_filtered_total",
        "inflection_delivery_calls_dead_total",
    }
    verdict.none(sorted(there - exported(standalone) - rare), "standalone tells the same metrics")


def outage(url, ports):
    """Segment is away: the calls that wait are in the books, and KEDA's query does not ask for workers. Then it is back."""
    (backlog,) = [
        o["spec"]["triggers"][0]["metadata"]["query"]
        for o in objects(helm_template(CHART / "ci/keda.yaml", "compose").stdout)
        if o["kind"] == "ScaledObject" and o["metadata"]["name"].endswith("-delivery")
    ]
    backlog = backlog.replace("[2m]", f"[{RATE_INTERVAL}]")
    waiting = 'sum(max by (workspace, connection) (inflection_ledger_calls{namespace="compose",fate="pending"}))'
    latest = lambda expression: query(url, expression)[0]
    faults, json_type = f"http://127.0.0.1:{ports['sandbox']}/faults", {"Content-Type": "application/json"}
    # The books are up to ten seconds old.
    if until("the load has left", lambda: latest(waiting) == 0):
        verdict.check(latest(backlog) == 0, "at rest no worker is asked for")
    post(faults, json.dumps({"rules": [{"fault": {"kind": "status", "code": 503}}]}).encode(), json_type)
    events = [event for index in range(100) for event in engagement("outage", index)]
    headers = {"Authorization": "Bearer laptop-ingest-key", **json_type}
    verdict.check(
        post(f"http://127.0.0.1:{ports['public']}/v1/events", json.dumps(events).encode(), headers) == 200,
        "ingest takes events in an outage",
    )
    if until("calls wait in an outage", lambda: latest(waiting) > 0):
        # Failures are seen as a rate from the second one on; until then the slow scale-up of the ScaledObject holds.
        verdict.check(
            until("the outage is seen", lambda: latest(backlog) == 0, seconds=15) and latest(waiting) > 0,
            "in an outage no worker is asked for",
        )
    post(faults, None, {}, method="DELETE")
    until("what waited in the outage has left", lambda: latest(waiting) == 0, seconds=40)


def observed():
    """Compose, standalone and Prometheus together."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        processes = Processes(folder)
        try:
            ports, sendgrid = compose_fleet(processes, folder)
            alone, admin, prometheus_port = free_ports(3)
            processes.start(
                "standalone",
                [
                    BINARY,
                    "standalone",
                    "--data-dir",
                    folder / "data",
                    "--listen",
                    f"127.0.0.1:{alone}",
                    "--admin-listen",
                    f"127.0.0.1:{admin}",
                    "--ingest-key",
                    "alone",
                    "--write-key",
                    "alone",
                    "--segment-endpoint",
                    f"http://127.0.0.1:{ports['sandbox']}",
                    "--allow-insecure-endpoint",
                ],
            )
            until("standalone is ready", lambda: get(f"http://127.0.0.1:{admin}/readyz"))
            url = prometheus(processes, folder, {**ports, "standalone": admin}, prometheus_port)
            load(f"http://127.0.0.1:{alone}", "alone", 2)
            load(f"http://127.0.0.1:{ports['public']}", "laptop-ingest-key", 16, sendgrid)
            # The books are read every ten seconds: their metrics are there, and the dead letters among them.
            until(
                "the books are told",
                lambda: any(query(url, 'inflection_ledger_calls{namespace="compose",fate="dead"} > 0')),
            )
            panels(url)
            rules(url)
            names(
                "".join(get(f"http://127.0.0.1:{ports[stage]}/metrics") for stage in STAGES),
                get(f"http://127.0.0.1:{admin}/metrics"),
            )
            outage(url, ports)
            done = run(
                BINARY,
                "ledger",
                "--admin-url",
                f"http://127.0.0.1:{ports['delivery']}",
                "--admin-key",
                "laptop-admin-key",
            )
            verdict.check(done.returncode == 0, "the books of compose balance", done.stdout + done.stderr)
            processes.stop_stages("compose's")
        finally:
            processes.end()


def charted():
    """The chart's trial: its job, its three stages with the sandbox, and its `helm test`, from the rendered objects."""
    text = helm_template(CHART / "ci/trial.yaml", "email").stdout
    rendered = {(o["kind"], o["metadata"]["name"]): o for o in objects(text)}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        ports = fleet_ports()
        secrets = {name: o["stringData"] for (kind, name), o in rendered.items() if kind == "Secret"}
        # Mounted as the pods have them.
        for mounted in ("secrets", "admin"):
            (folder / mounted).mkdir()
            for entry, value in secrets[f"acme-inflection-source-{mounted}"].items():
                (folder / mounted / entry).write_text(value)

        def here(text, stage=None):
            text = text.replace(PREFIX, f"{folder}/").replace("nats://nats:4222", f"nats://127.0.0.1:{ports['nats']}")
            text = text.replace("0.0.0.0:8080", f"127.0.0.1:{ports['public']}").replace(
                "127.0.0.1:8090", f"127.0.0.1:{ports['sandbox']}"
            )
            text = text.replace("0.0.0.0:9090", f"127.0.0.1:{ports.get(stage, 0)}")
            return re.sub(
                r"http://acme-inflection-source-(\w+)-admin:9090",
                lambda found: f"http://127.0.0.1:{ports[found.group(1)]}",
                text,
            )

        def command(container, config, stage=None):
            env = {}
            for variable in container.get("env", []):
                reference = variable.get("valueFrom", {}).get("secretKeyRef")
                env[variable["name"]] = here(
                    secrets[reference["name"]][reference["key"]] if reference else variable["value"]
                )
            if "INFLECTION_CONFIG" in env:
                source = folder / f"{container['name']}.toml"
                text = here(rendered[("ConfigMap", config)]["data"]["source.toml"])
                source.write_text(monitored(text, ports["monitor"]))
                env["INFLECTION_CONFIG"] = str(source)
            return [BINARY, *[here(a, stage) for a in container["args"]]], env

        processes = Processes(folder)
        try:
            nats(processes, folder, ports["nats"], ports["monitor"])
            job = rendered[("Job", "acme-inflection-source-provision")]["spec"]["template"]["spec"]["containers"][0]
            for attempt in ("makes", "finds"):
                line, env = command(job, "acme-inflection-source-provision")
                done = run(*line, env=env)
                verdict.check(
                    done.returncode == 0, f"the chart's provision {attempt} the streams", done.stdout + done.stderr
                )
            for stage in STAGES:
                pod = rendered[("Deployment", f"acme-inflection-source-{stage}")]["spec"]["template"]["spec"]
                for container in pod["containers"]:
                    line, env = command(container, "acme-inflection-source-config", stage)
                    processes.start(container["name"], line, env)
            smoke = rendered[("Pod", "acme-inflection-source-smoke")]["spec"]
            for container in smoke["initContainers"]:
                line, env = command(container, "")
                if not until(f"the chart's {container['name']}", lambda: run(*line, env=env).returncode == 0):
                    raise NotStarted(processes.log(container["name"].split("-")[0]))
            load(f"http://127.0.0.1:{ports['public']}", "change-me-ingest", 1)
            line, env = command(smoke["containers"][0], "")
            done = run(*line, env=env)
            verdict.check(done.returncode == 0, "`helm test`: the books balance", done.stdout + done.stderr)
            # As NOTES.txt says: inside the pod, with its environment, and nothing else.
            exec_env = {**env, "INFLECTION_ADMIN_URL": f"http://127.0.0.1:{ports['delivery']}"}
            done = run(BINARY, "connections", "list", env=exec_env)
            verdict.check(
                done.returncode == 0 and "sandbox" in done.stdout,
                "commands work inside a pod",
                done.stdout + done.stderr,
            )
            # Secrets that change need no restart: the old admin key is taken beside the new one, and then no more.
            (admin_key,) = (folder / "admin").iterdir()
            old = admin_key.read_text()
            ledger = lambda key: run(BINARY, "ledger", "--admin-key", key, env={"INFLECTION_ADMIN_URL": exec_env["INFLECTION_ADMIN_URL"]})
            admin_key.write_text(f"rotated\n{old}\n")
            until("a new admin key is taken", lambda: ledger("rotated").returncode == 0)
            verdict.check(ledger(old).returncode == 0, "the old admin key is taken beside it")
            admin_key.write_text("rotated\n")
            until("the old admin key is taken no more", lambda: ledger(old).returncode != 0)
            verdict.check(ledger("rotated").returncode == 0, "the new admin key is taken alone")
            (folder / "secrets" / "demo-ingest").write_text("rotated")
            headers = {"Authorization": "Bearer rotated", "Content-Type": "application/json"}
            until(
                "a rotated ingest key is taken",
                lambda: (
                    post(
                        f"http://127.0.0.1:{ports['public']}/v1/events",
                        json.dumps(engagement("rotated", 1)).encode(),
                        headers,
                    )
                    == 200
                ),
            )
            processes.stop_stages("the chart's")
        finally:
            processes.end()


def clustered():
    """deploy/nats/cluster.conf, three times: a bus that meets the policy, made twice with an identity of its own."""
    with tempfile.TemporaryDirectory() as folder:
        folder, processes = pathlib.Path(folder), Processes(pathlib.Path(folder))
        ports = free_ports(9)
        clients, routes, monitors = ports[:3], ports[3:6], ports[6:]
        text = unbounded((DEPLOY / "nats/cluster.conf").read_text())
        for server in range(3):
            text = text.replace(f"nats://nats-{server}:6222", f"nats://127.0.0.1:{routes[server]}")
        try:
            for server in range(3):
                own = text.replace("0.0.0.0:4222", f"127.0.0.1:{clients[server]}").replace(
                    "0.0.0.0:6222", f"127.0.0.1:{routes[server]}"
                )
                own = own.replace("0.0.0.0:8222", f"127.0.0.1:{monitors[server]}").replace(
                    "/var/lib/nats", f"{folder}/nats-{server}"
                )
                (folder / f"nats-{server}.conf").write_text(own)
                processes.start(
                    f"nats-{server}",
                    [environment("NATS_SERVER"), "-c", folder / f"nats-{server}.conf"],
                    {"NATS_NAME": f"nats-{server}"},
                )
            for port in monitors:
                until("the cluster of three is healthy", lambda: get(f"http://127.0.0.1:{port}/healthz"))
            (folder / "source.toml").write_text('[installation]\nid = "check"\nkey = { value = "' + "ab" * 32 + '" }\n')
            urls = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
            line = [
                BINARY,
                "provision",
                "--nats-url",
                urls,
                "--nats-monitor-url",
                f"http://127.0.0.1:{monitors[0]}",
                "--config",
                folder / "source.toml",
            ]
            for _ in range(2):
                done = run(*line, env={})
                good = (
                    done.returncode == 0
                    and "DEGRADED" not in done.stdout + done.stderr
                    and "installation check with 64 partitions" in done.stdout
                )
                verdict.check(
                    good, "a cluster of deploy/nats/cluster.conf meets the durability policy", done.stdout + done.stderr
                )
        finally:
            processes.end()


for part in (clustered, charted, observed):
    try:
        part()
    except NotStarted as log:
        print(log)
verdict.end()
