"""Programs that run while something is checked, and what is posted to them.

Only loopback: host names and ports of the manifests are replaced by addresses of this machine, mounted paths by a temporary
folder. Everything that is started is ended by its process id."""

import base64
import contextlib
import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

from common import DEPLOY, STAGES, environment, run, verdict


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def fleet_ports():
    """A port for each listener of a whole installation, by name; a stage's is its admin listener."""
    names = ("nats", "monitor", "public", "sandbox", *STAGES)
    return dict(zip(names, free_ports(len(names))))


def monitored(source, port):
    """A configuration file that says where NATS tells how it is, which is not on the port where it would be sought."""
    return source.replace("[bus]", f'[bus]\nmonitor_url = "http://127.0.0.1:{port}"')


def until(what, ready, seconds=30):
    """Waits for a condition; the deadline is only there to end."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            if ready():
                return True
        time.sleep(0.1)
    return verdict.check(False, f"in time: {what}")


def get(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()


def post(url, body, headers, method="POST"):
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


class NotStarted(Exception):
    """A stage does not come up, which has been told; the rest of its part would say nothing."""


class Processes:
    """What runs, by name; all of it is ended at the end."""

    def __init__(self, folder):
        self.folder, self.running = folder, {}

    def start(self, name, command, env=None):
        log = open(self.folder / f"{name}.log", "w")
        self.running[name] = subprocess.Popen([str(part) for part in command], stdout=log, stderr=log, env=env or {})

    def stop(self, name):
        """SIGTERM, and the exit code."""
        process = self.running.pop(name)
        process.terminate()
        try:
            return process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            return None

    def stop_stages(self, whose):
        """Each has to leave by itself, with success."""
        for stage in STAGES:
            began = time.monotonic()
            code = self.stop(stage)
            verdict.check(
                code == 0,
                f"{whose} {stage} leaves in order on SIGTERM",
                f"{code} after {time.monotonic() - began:.1f} s\n{self.log(stage) if code else ''}",
            )

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()[-1500:]

    def end(self):
        for name in list(self.running):
            self.stop(name)


def unbounded(text):
    """A server's configuration without a limit of the store: left to itself a server takes a share of the free disk, and what
    fits would depend on the machine."""
    return text.replace("sync_interval: always", "sync_interval: always\n  max_file_store: 1TB")


def nats(processes, folder, port, monitor):
    """The server of compose's own configuration."""
    text = (DEPLOY / "compose/nats.conf").read_text()
    text = (
        text.replace("0.0.0.0:4222", f"127.0.0.1:{port}")
        .replace("0.0.0.0:8222", f"127.0.0.1:{monitor}")
        .replace("/var/lib/nats", f"{folder}/jetstream")
    )
    text = unbounded(text)
    (folder / "nats.conf").write_text(text)
    processes.start("nats", [environment("NATS_SERVER"), "-c", folder / "nats.conf"])
    # The very question of compose's health check.
    return until("nats-server is healthy", lambda: get(f"http://127.0.0.1:{monitor}/healthz?js-server-only=true"))


def engagement(prefix, index, **more):
    person = f"{prefix}-{index}"
    event = {
        "timestamp": int(time.time() * 1000),
        "person_id": person,
        "email": f"{person}@example.com",
        "email_id": "mail",
        "campaign_id": "campaign",
        "campaign_run_id": "run",
        **more,
    }
    return [
        {**event, "type": kind, "id": f"{person}-{kind}", "email_link_url": "https://example.com/"}
        for kind in ("email_delivered", "email_opened", "link_clicked")
    ]


def load(url, key, seconds, sendgrid=None):
    """Posts for a while: facts, repeats, refusals, a wrong key, what Segment refuses, and webhooks of no kind of ours."""
    headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
    send = lambda events: post(f"{url}/v1/events", json.dumps(events).encode(), headers)
    answers, end, round_ = set(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        events = [event for index in range(30) for event in engagement(f"r{round_}", index)]
        answers.add(send(events))
        answers.add(send(events[:3]))
        send([{"type": "nonsense", "timestamp": 0}])
        post(f"{url}/v1/events", b"[]", {"Authorization": "Bearer wrong", "Content-Type": "application/json"})
        send([{**engagement("poison", round_)[0], "email_subject": "poison"}])
        if sendgrid:
            sendgrid(url, round_)
        round_ += 1
        time.sleep(0.25)
    verdict.check(answers == {200}, "what is posted is taken", str(answers))


class SendGrid:
    """Signs as SendGrid does."""

    TOKEN = "a-token-for-the-check"

    def __init__(self, folder):
        self.key = folder / "sendgrid.pem"
        run("openssl", "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", self.key)
        public = subprocess.run(
            ["openssl", "ec", "-in", self.key, "-pubout", "-outform", "DER"], capture_output=True, check=True
        ).stdout
        self.public = base64.b64encode(public).decode()

    def __call__(self, url, round_):
        stamp = str(int(time.time()))
        body = json.dumps(
            [{"event": "processed", "email": "a@example.com", "timestamp": int(stamp), "sg_event_id": f"e{round_}"}]
        ).encode()
        signed = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key],
            input=stamp.encode() + body,
            capture_output=True,
            check=True,
        ).stdout
        status = post(
            f"{url}/v1/webhooks/sendgrid/{self.TOKEN}",
            body,
            {
                "Content-Type": "application/json",
                "X-Twilio-Email-Event-Webhook-Timestamp": stamp,
                "X-Twilio-Email-Event-Webhook-Signature": base64.b64encode(signed).decode(),
            },
        )
        if status != 200:
            verdict.check(False, "a signed webhook is taken", str(status))
