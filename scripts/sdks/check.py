"""Runs the SDKs against a standalone install and compares what they sent with what the sandbox has: see ../check-sdks."""

import argparse
import collections
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

USERS = 100
INGEST_KEY, WRITE_KEY = "ik_sdks_4f1b7c0d92e3a658", "wksdksZt9LxVb4RkPw3Ns6Qm2Hd8Jc5A"
HERE = os.path.dirname(os.path.abspath(__file__))
# Long enough for SDKs to come back after the kill, on a busy machine.
WAIT_SECONDS = 180
PAGE = 10_000


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def get(url):
    with urllib.request.urlopen(url, timeout=30) as answer:
        return json.load(answer)


def until(what, condition):
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            found = condition()
            if found:
                return found
            why = "not yet"
        except OSError as error:
            why = error
        if time.monotonic() > deadline:
            sys.exit(f"check-sdks: {what}: {why}")
        time.sleep(0.05)


class Install:
    """The sandbox and a standalone install that delivers to it."""

    def __init__(self, binary, folder):
        self.binary, self.folder = binary, folder
        self.log = open(os.path.join(folder, "log"), "ab")
        self.ingest, self.admin, sandbox = (f"127.0.0.1:{free_port()}" for _ in range(3))
        self.sandbox_url, self.host = f"http://{sandbox}", f"http://{self.ingest}"
        self.sandbox = self.spawn("sandbox", "--listen", sandbox, "--calls-max", "1000000")
        until("the sandbox starts", lambda: get(f"{self.sandbox_url}/summary"))
        self.start()

    def spawn(self, *arguments):
        return subprocess.Popen([self.binary, *arguments], stdout=self.log, stderr=self.log)

    def start(self):
        self.standalone = self.spawn(
            "standalone", "--data-dir", os.path.join(self.folder, "data"), "--listen", self.ingest,
            "--admin-listen", self.admin, "--ingest-key", INGEST_KEY, "--write-key", WRITE_KEY,
            "--segment-endpoint", self.sandbox_url, "--allow-insecure-endpoint")
        until("the install is ready", lambda: urllib.request.urlopen(f"http://{self.admin}/readyz", timeout=5))

    def kill(self):
        self.standalone.send_signal(signal.SIGKILL)
        self.standalone.wait()

    def end(self):
        for process in (self.standalone, self.sandbox):
            process.terminate()
            process.wait()

    def summary(self):
        return get(f"{self.sandbox_url}/summary")

    def settled(self):
        ledger = get(f"http://{self.admin}/v1/ledger")
        return ledger if ledger["balanced"] and not ledger["pending"] else None

    def calls(self):
        after, calls = 0, []
        while True:
            page = get(f"{self.sandbox_url}/calls?limit={PAGE}&after={after}")["calls"]
            if not page:
                return calls
            calls += page
            after = page[-1]["arrival"]


def run(install, sdk, command, events, kill):
    """Runs one SDK to its end; returns seconds and how many events it says it could not send."""
    began, before = time.monotonic(), install.summary()["accepted"]
    sender = subprocess.Popen([*command, install.host, INGEST_KEY, str(events), str(USERS)], stdout=subprocess.PIPE)
    if kill:
        def far_enough():
            return sender.poll() is not None or install.summary()["accepted"] - before > events // 10
        until(f"{sdk}: events arrive", far_enough)
        if sender.poll() is None:
            install.kill()
            install.start()
        else:
            print(f"{sdk}: all was sent before the kill")
    output, _ = sender.communicate(timeout=WAIT_SECONDS)
    if sender.returncode:
        sys.exit(f"check-sdks: the {sdk} SDK ended with {sender.returncode}")
    return time.monotonic() - began, json.loads(output)["failed"]


def of_sdk(calls, sdk):
    """Numbers of the events that arrived, each with the messageIds it came under, in order of first arrival."""
    arrived = collections.OrderedDict()
    for call in calls:
        mark = call["body"].get("properties") or call["body"].get("traits") or {}
        if mark.get("sdk") == sdk:
            arrived.setdefault(mark["seq"], []).append(call["message_id"])
    return arrived


def in_order(arrived):
    """Whether every user's events arrived in the order in which the SDK was given them."""
    last = {}
    for seq in arrived:
        if last.get(seq % USERS, -1) > seq:
            return False
        last[seq % USERS] = seq
    return True


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--binary", required=True)
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--no-kill", action="store_true")
    options = parser.parse_args()
    senders = {
        "node": ["node", os.path.join(HERE, "send.cjs")],
        "python": [sys.executable, os.path.join(HERE, "send.py")],
    }
    good = True
    with tempfile.TemporaryDirectory() as folder:
        install = Install(options.binary, folder)
        try:
            for sdk, command in senders.items():
                seconds, failed = run(install, sdk, command, options.events, not options.no_kill)
                ledger = until("the ledger comes to rest", install.settled)
                arrived = of_sdk(install.calls(), sdk)
                lost = options.events - len(arrived)
                doubled = sum(len(set(ids)) > 1 for ids in arrived.values())
                repeats = sum(len(ids) - len(set(ids)) for ids in arrived.values())
                # Node sends several batches at once, so only Python's order is its user's.
                ordered = in_order(arrived) if sdk == "python" else None
                good = good and not (lost or doubled or failed or ordered is False)
                order = {None: "", True: ", in order", False: ", OUT OF ORDER"}[ordered]
                print(f"{sdk:<7} {options.events} events in {seconds:.1f} s ({options.events / seconds:.0f}/s): "
                      f"{len(arrived)} arrived{order}, {lost} lost, {doubled} doubled, {failed} given up by the SDK; "
                      f"{repeats} repeats of one messageId at Segment")
            print(f"ledger  {json.dumps(ledger['events'])}")
        finally:
            install.end()
            install.log.close()
            if not good:
                print(open(os.path.join(folder, "log"), errors="replace").read()[-5000:], file=sys.stderr)
    sys.exit(0 if good else 1)


main()
