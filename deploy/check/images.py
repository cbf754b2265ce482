"""The image and compose: linted, and the final stage built for real where buildah is."""

import json
import pathlib
import shutil
import tempfile

from common import DEPLOY, ROOT, environment, run, verdict

BIN = pathlib.Path(environment("CHECK_BIN"))


def dockerfile():
    done = run(BIN / "hadolint", DEPLOY / "Dockerfile")
    verdict.check(done.returncode == 0, "hadolint is content with the Dockerfile", done.stdout)
    # What the build stage is given must be a workspace that resolves with its lock file.
    with tempfile.TemporaryDirectory() as folder:
        for line in (DEPLOY / "Dockerfile.dockerignore").read_text().splitlines():
            source = ROOT / line[1:]
            if line.startswith("!") and source.is_dir():
                shutil.copytree(source, pathlib.Path(folder) / line[1:], ignore=shutil.ignore_patterns("target"))
            elif line.startswith("!") and source.exists():
                shutil.copy(source, folder)
        done = run("cargo", "metadata", "--locked", "--no-deps", "--format-version", "1", cwd=folder)
        named = done.returncode == 0 and "inflection-source" in [p["name"] for p in json.loads(done.stdout)["packages"]]
        verdict.check(named, "what .dockerignore lets through is the whole workspace", done.stderr)


def final_stage():
    """The last stage from a prebuilt binary onto nothing: base images cannot be had without a registry."""
    if not shutil.which("buildah"):
        print("left out: buildah is not installed, so no image is built")
        return
    with tempfile.TemporaryDirectory() as folder:
        context, image = pathlib.Path(folder) / "context", pathlib.Path(folder) / "image"
        context.mkdir()
        shutil.copy(environment("CHECK_BINARY"), context / "inflection-source")
        buildah = ["buildah", "--storage-driver", "vfs", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
        done = run(
            *buildah,
            "bud",
            "--isolation",
            "chroot",
            "--build-arg",
            "BINARY=prebuilt",
            "--build-arg",
            "RUNTIME=scratch",
            "-f",
            DEPLOY / "Dockerfile",
            "-t",
            f"oci:{image}",
            context,
        )
        if not verdict.check(done.returncode == 0, "the final stage builds", done.stderr[-1500:]):
            return
        blob = lambda digest: json.loads((image / "blobs" / digest.replace(":", "/")).read_text())
        index = json.loads((image / "index.json").read_text())
        config = blob(blob(index["manifests"][0]["digest"])["config"]["digest"])["config"]
        verdict.check(config["User"] == "65532:65532", "the image's user is not root, by number", config["User"])
        verdict.check(
            config["Entrypoint"] == ["/usr/local/bin/inflection-source"], "the image starts the program", str(config)
        )
        verdict.check(
            any(variable.startswith("PATH=/usr/local/bin:") for variable in config["Env"]),
            "the program is found by its name",
            str(config),
        )
        labels = {
            f"org.opencontainers.image.{name}"
            for name in ("title", "description", "source", "licenses", "version", "revision")
        }
        verdict.check(labels <= set(config["Labels"]), "the image has its labels", str(config["Labels"]))


def compose():
    arguments = [BIN / "docker-compose", "-f", DEPLOY / "compose.yaml", "--profile", "observe", "config"]
    done = run(*arguments, "-q")
    verdict.check(done.returncode == 0, "compose.yaml is valid", done.stderr)
    services = json.loads(run(*arguments, "--format", "json").stdout or "{}").get("services", {})
    wanted = {"nats", "provision", "ingest", "identity", "delivery", "sandbox", "prometheus", "grafana"}
    verdict.check(set(services) == wanted, "compose has all services", str(set(services) ^ wanted))
    for name, service in services.items():
        mounts = [v["source"] for v in service.get("volumes", []) if v["type"] == "bind"]
        verdict.none([path for path in mounts if not pathlib.Path(path).exists()], f"{name} mounts what exists")
        published = [port.get("host_ip") for port in service.get("ports", [])]
        verdict.check(
            all(host == "127.0.0.1" for host in published), f"{name} is published on loopback only", str(published)
        )
        if name in ("ingest", "identity", "delivery", "sandbox"):
            shut = (
                service.get("read_only")
                and service.get("cap_drop") == ["ALL"]
                and "no-new-privileges:true" in service.get("security_opt", [])
            )
            verdict.check(shut, f"{name} is shut in")


dockerfile()
final_stage()
compose()
verdict.end()
