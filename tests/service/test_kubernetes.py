"""The manifests of deploy/kubernetes: valid for Kubernetes and KEDA, and true to the product.

No cluster runs them here.
"""

import os
import re
import signal
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from i2ii_spool.cli.main import main
from i2ii_spool.images.sandbox import limits, pool
from i2ii_spool.server.auth import tokens
from i2ii_spool.settings import MIB, Settings, load, variable
from i2ii_spool.spool.hosts import BOOT_ID
from i2ii_spool.spool.liveness import WorkerState, worker_name
from i2ii_spool.spool.maintenance import NETWORK_LEASE_SECONDS
from tests.support import ROOT
from tests.support.app import Connect, HandWorker
from tests.support.kubernetes import (
    COMPONENTS,
    DEPLOY,
    NAMESPACE,
    container,
    environment,
    of_kind,
    pods,
    probes,
    settings,
    shared_settings,
    written,
)
from tests.support.kubernetes_tools import build, faults, why_not
from tests.support.service import Service, wait_until

PODS = sorted(pods())
PAGE = ROOT / "docs/deployment/kubernetes.md"
CONTAINERFILE = (ROOT / "Containerfile").read_text()
SECRET = "a-token-of-the-operator"
MODEL_SECONDS = 1800
"""What the page grants a model to load."""
OLD_SECONDS = 200
"""The age of a heartbeat that is too old."""
PREPARED = ("i2ii-tokens", "i2ii-webhooks", "i2ii-keda")
"""The secrets that the operator makes."""

needs_tools = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


# --- against the schemas --------------------------------------------------------------------------


@pytest.fixture
def overlay(tmp_path: Path) -> Path:
    """The overlay of the page, in a folder beside the manifests."""
    (tmp_path / "deploy").symlink_to(ROOT / "deploy")
    folder = tmp_path / "overlay"
    folder.mkdir()
    (example,) = re.findall(r"<!-- overlay -->\n```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (folder / "kustomization.yaml").write_text(example)
    return folder


@needs_tools
def test_the_base_alone_is_valid(tmp_path: Path) -> None:
    assert faults(build(DEPLOY / "base"), tmp_path / "built.yaml") == []


@needs_tools
def test_the_overlay_of_the_page_is_valid_with_all_components(
    overlay: Path, tmp_path: Path
) -> None:
    text = build(overlay)
    assert faults(text, tmp_path / "built.yaml") == []
    built = {(each["kind"], each["metadata"]["name"]): each for each in yaml.safe_load_all(text)}
    assert len(built) == len(written()) + 1  # and the settings
    (config,) = (each for (kind, _), each in built.items() if kind == "ConfigMap")
    assert config["data"] == {
        **shared_settings(),
        "I2II_MAX_SIDE": "1024",
        "I2II_KEEP_DAYS": "7",
    }
    worker = built["StatefulSet", "i2ii-worker"]["spec"]
    assert "replicas" not in worker
    assert container(worker["template"])["image"] == "registry.example.com/i2ii:0.1.0"
    assert container(worker["template"])["envFrom"] == [
        {"configMapRef": {"name": config["metadata"]["name"]}}
    ]
    namespaced = [each for (kind, _), each in built.items() if kind != "Namespace"]
    assert {each["metadata"]["namespace"] for each in namespaced} == {NAMESPACE}
    accept_jobs = {
        name
        for (_, name), each in built.items()
        if "I2II_WEBHOOK_SECRETS" in yaml.dump(each) and each["kind"] != "ConfigMap"
    }
    assert accept_jobs == {"i2ii-server", "i2ii-worker", "i2ii-webhooks"}


@needs_tools
@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("supplementalGroups:", "suplementalGroups:"),
        ("replicas: 2", "replicas: two"),
        ("pollingInterval:", "poolingInterval:"),
        ("maxReplicaCount: 8", "maxReplicaCount: many"),
    ],
)
def test_a_fault_is_found(overlay: Path, tmp_path: Path, right: str, wrong: str) -> None:
    text = build(overlay)
    assert right in text
    assert faults(text.replace(right, wrong, 1), tmp_path / "built.yaml") != []


# --- against each other ---------------------------------------------------------------------------


def labels(name: str) -> dict[str, str]:
    found: dict[str, str] = pods()[name]["metadata"]["labels"]
    return found


def selectors() -> list[dict[str, str]]:
    """Every selector of pods but the one of all."""
    services = [each["spec"]["selector"] for each in of_kind("Service")]
    policies = [each["spec"]["podSelector"] for each in of_kind("NetworkPolicy")]
    others = [
        each["spec"]["selector"]
        for kind in ("Deployment", "StatefulSet", "PodDisruptionBudget")
        for each in of_kind(kind)
    ]
    return [*services, *(each["matchLabels"] for each in [*policies, *others] if each)]


def test_every_selector_finds_the_pods_of_one_kind() -> None:
    for selector in selectors():
        found = [name for name in PODS if selector.items() <= labels(name).items()]
        assert len(found) == 1, selector


@pytest.mark.parametrize("name", PODS)
def test_all_volumes_are_there(name: str) -> None:
    pod = pods()[name]
    claims = {each["metadata"]["name"] for each in of_kind("PersistentVolumeClaim")}
    volumes = {each["name"]: each for each in pod["spec"]["volumes"]}
    assert {each["name"] for each in container(pod)["volumeMounts"]} == set(volumes)
    for volume in volumes.values():
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] in claims
        if secret := volume.get("secret"):
            assert secret["secretName"] in PREPARED


def test_the_page_says_how_to_make_every_secret() -> None:
    made = re.findall(
        r"create secret generic (\S+) --from-(?:file|literal)=(\w+)", PAGE.read_text()
    )
    assert dict(made) == {"i2ii-tokens": "tokens", "i2ii-webhooks": "secrets", "i2ii-keda": "token"}
    text = "".join(path.read_text() for path in DEPLOY.glob("*/*.yaml"))
    used = re.findall(r"name: (\S+), key: (\w+)", text)
    assert set(used) == {("i2ii-webhooks", "secrets"), ("i2ii-keda", "token")}


# --- against the product --------------------------------------------------------------------------


@pytest.mark.parametrize("name", PODS)
def test_every_variable_is_a_setting_with_a_valid_value(name: str) -> None:
    variables = [each["name"] for each in container(pods()[name]).get("env", [])]
    own = [each for each in [*variables, *shared_settings()] if each.startswith("I2II_")]
    assert set(own) <= set(map(variable, Settings.model_fields))
    assert settings(pods()[name]).spool == Path("/spool")


@pytest.mark.parametrize("name", PODS)
def test_every_command_is_one(name: str) -> None:
    program, *arguments = container(pods()[name])["command"]
    assert program == "i2ii"
    command: click.Command = main
    while isinstance(command, click.Group):
        word = arguments.pop(0)
        assert word in command.commands
        command = command.commands[word]
    command.make_context(command.name, arguments).close()


@pytest.mark.parametrize("name", PODS)
def test_every_pod_runs_as_the_user_of_the_image(name: str) -> None:
    spec = pods()[name]["spec"]
    (user,) = re.findall(r"useradd --uid (\d+) --gid \1 ", CONTAINERFILE)
    runs = spec["securityContext"]
    assert {runs["runAsUser"], runs["runAsGroup"], *runs["supplementalGroups"]} == {int(user)}
    assert runs["runAsNonRoot"]
    assert runs["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container(pods()[name])["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {each["mountPath"] for each in container(pods()[name])["volumeMounts"]}
    assert mounts >= {"/tmp"}
    home = environment(pods()[name]).get("HOME", "/models")
    assert home in mounts


@pytest.mark.parametrize("name", PODS)
def test_no_service_of_kubernetes_becomes_a_setting(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert pods()[name]["spec"]["enableServiceLinks"] is False
    # This is why: what a pod beside a Service called `i2ii` gets.
    monkeypatch.setenv("I2II_PORT", "tcp://10.96.0.17:8000")
    with pytest.raises(Exception, match="port"):
        load(files=())


def test_a_worker_has_the_time_that_it_needs_to_stop() -> None:
    worker = pods()["i2ii-worker"]
    assert worker["spec"]["terminationGracePeriodSeconds"] >= settings(worker).stop_seconds


@pytest.mark.parametrize(
    ("name", "unit"),
    [
        ("i2ii-server", "i2ii-http.service"),
        ("i2ii-gc", "i2ii-gc.service"),
        ("i2ii-webhooks", "i2ii-webhooks.service"),
    ],
)
def test_memory_and_time_are_those_of_the_systemd_unit(name: str, unit: str) -> None:
    text = (ROOT / "systemd" / unit).read_text()
    (memory,) = re.findall(r"^MemoryMax=(\w+)$", text, re.MULTILINE)
    assert container(pods()[name])["resources"]["limits"] == {"memory": f"{memory}i"}
    if stop := re.findall(r"^TimeoutStopSec=(\d+)$", text, re.MULTILINE):
        assert pods()[name]["spec"]["terminationGracePeriodSeconds"] >= int(stop[0])


def test_decoders_never_reach_the_memory_limit_of_the_server() -> None:
    server = pods()["i2ii-server"]
    decoder = limits.BASE_MEMORY + limits.BYTES_PER_PIXEL * settings(server).max_pixels
    limit = int(container(server)["resources"]["limits"]["memory"].removesuffix("Gi")) * 2**30
    assert pool.PROCESSES * decoder + 250 * MIB <= limit


async def test_the_probes_of_the_server_need_neither_token_nor_worker(connect: Connect) -> None:
    client = await connect(api_token=SECRET)
    for _, probe in probes(pods()["i2ii-server"]):
        answer = await client.get(probe["httpGet"]["path"], headers={"Host": "10.244.1.7:8000"})
        assert answer.status == 200


async def test_keda_reads_numbers_from_the_service(connect: Connect, worker: HandWorker) -> None:
    worker.show(WorkerState.READY)
    client = await connect(api_token=SECRET)
    (scaled,) = of_kind("ScaledObject")
    (service,) = (each for each in of_kind("Service") if "ports" in each["spec"])
    port = service["spec"]["ports"][0]["port"]
    names = []
    for trigger in scaled["spec"]["triggers"]:
        about = trigger["metadata"]
        prefix = f"http://{service['metadata']['name']}.{NAMESPACE}.svc:{port}"
        assert about["url"].startswith(prefix)
        path = about["url"].removeprefix(prefix)
        assert (await client.get(path)).status == 401
        assert about["authMode"] == "bearer"
        answer = await client.get(path, headers={"Authorization": f"Bearer {SECRET}"})
        assert (await answer.json())[about["valueLocation"]] == 0
        names.append(trigger["name"])
    modifiers = scaled["spec"]["advanced"]["scalingModifiers"]
    assert modifiers["formula"].split(" + ") == names
    target = scaled["spec"]["scaleTargetRef"]
    assert target["name"] in [each["metadata"]["name"] for each in of_kind(target["kind"])]


# --- the probes of a worker -----------------------------------------------------------------------


def ask(service: Service, kind: str) -> bool:
    """Whether a probe of the worker's pod succeeds on this host."""
    shell, option, script = dict(probes(pods()["i2ii-worker"]))[kind]["exec"]["command"]
    host = worker_name("gpu0").partition(".")[0]
    here = script.replace("/spool", str(service.spool.root)).replace("$(hostname)", host)
    assert here.count(str(service.spool.root)) == 1
    return subprocess.run([shell, option, here], check=False, timeout=60).returncode == 0


def answers(service: Service) -> dict[str, bool]:
    return {kind: ask(service, kind) for kind in ("startup", "liveness", "readiness")}


def change(service: Service, state: str) -> None:
    """Have the status file of the worker, which stands still, tell another state."""
    (path,) = service.spool.workers.glob("*.json")
    path.write_text(re.sub(r'"state": "\w+"', f'"state": "{state}"', path.read_text()))


def test_the_probes_see_what_a_worker_does(service: Service) -> None:
    before = {"startup": False, "liveness": False, "readiness": False}
    assert answers(service) == before
    worker = service.work()
    assert answers(service) == {"startup": True, "liveness": True, "readiness": True}
    os.kill(worker.pid, signal.SIGSTOP)  # as if its GPU hung
    change(service, "degraded")
    assert answers(service) == {"startup": True, "liveness": True, "readiness": False}
    change(service, "loading")
    assert answers(service) == {"startup": False, "liveness": True, "readiness": False}
    change(service, "ready")
    (path,) = service.spool.workers.glob("*.json")
    own = path.read_text()
    path.write_text(own.replace(BOOT_ID.read_text().strip(), "of-the-node-before"))
    assert answers(service) == {"startup": False, "liveness": True, "readiness": True}
    path.write_text(own)
    assert answers(service)["startup"]
    long_ago = time.time() - OLD_SECONDS
    os.utime(path, (long_ago, long_ago))
    assert answers(service) == before
    os.kill(worker.pid, signal.SIGCONT)
    wait_until(lambda: all(answers(service).values()))


def test_a_worker_has_the_time_to_wait_for_its_name_and_to_load_its_model() -> None:
    probe = dict(probes(pods()["i2ii-worker"]))["startup"]
    allowed = probe["failureThreshold"] * probe["periodSeconds"]
    assert allowed >= MODEL_SECONDS + NETWORK_LEASE_SECONDS


def test_a_spool_that_does_not_answer_is_no_fault_of_the_worker(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stuck = tmp_path / "find"
    stuck.write_text("#!/bin/sh\nexec sleep 60\n")
    stuck.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert ask(service, "liveness")


# --- the tokens -----------------------------------------------------------------------------------


class Secret:
    """A volume of a secret as Kubernetes lays it out: links that a change replaces at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._version = 0

    def put(self, name: str, data: bytes) -> None:
        """Replace the contents."""
        self._version += 1
        version = self.folder / f"..version-{self._version}"
        version.mkdir(parents=True)
        (version / name).write_bytes(data)
        (version / name).chmod(0o440)
        link = self.folder / "..data_tmp"
        link.symlink_to(version.name)
        link.rename(self.folder / "..data")
        if not (self.folder / name).is_symlink():
            (self.folder / name).symlink_to(f"..data/{name}")


def status_with(service: Service, token: str) -> int:
    request = urllib.request.Request(
        f"{service.url}/jobs", headers={"Authorization": f"Bearer {token}"}
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_a_changed_secret_is_in_force_without_a_restart(service: Service, tmp_path: Path) -> None:
    server = pods()["i2ii-server"]
    (mounted,) = (
        each["mountPath"] for each in container(server)["volumeMounts"] if each["name"] == "tokens"
    )
    path = environment(server)["I2II_TOKENS_FILE"]
    assert path.startswith(f"{mounted}/")
    made, secret = tmp_path / "tokens", Secret(tmp_path / "secret")
    alice = tokens.add(made, "alice", is_operator=False)
    secret.put("tokens", made.read_bytes())
    service.serve(tokens_file=path.replace(mounted, str(secret.folder)))
    assert status_with(service, alice) == 200
    bob = tokens.add(made, "bob", is_operator=False)
    assert status_with(service, bob) == 401
    secret.put("tokens", made.read_bytes())
    wait_until(lambda: status_with(service, bob) == 200)


def test_components_are_all_there() -> None:
    def kind(folder: str) -> Any:
        return yaml.safe_load((DEPLOY / folder / "kustomization.yaml").read_text())["kind"]

    assert {path.name for path in DEPLOY.iterdir()} == {"base", *COMPONENTS}
    assert {kind(each) for each in COMPONENTS} == {"Component"}
