"""What deploy/kubernetes describes, as it is written.

worker = pods()["i2ii-worker"]                # the templates of all pods, by name
settings(worker)                              # what its process would have
"""

from collections.abc import Iterator
from typing import Any

import yaml

from i2ii_spool.settings import Settings
from tests.support import ROOT

DEPLOY = ROOT / "deploy/kubernetes"
COMPONENTS = ("fetch", "webhooks", "keda")
NAMESPACE = "i2ii"


def written() -> list[dict[str, Any]]:
    """The resources of the base and of all components, as they are written."""
    files = sorted(DEPLOY.glob("*/*.yaml"))
    return [
        resource
        for file in files
        if file.name != "kustomization.yaml"
        for resource in yaml.safe_load_all(file.read_text())
    ]


def of_kind(kind: str) -> list[dict[str, Any]]:
    """The resources of a kind."""
    return [resource for resource in written() if resource["kind"] == kind]


def _template(resource: dict[str, Any]) -> dict[str, Any]:
    spec: dict[str, Any] = resource["spec"]
    inner: dict[str, Any] = spec["jobTemplate"]["spec"] if "jobTemplate" in spec else spec
    template: dict[str, Any] = inner["template"]
    return template


def pods() -> dict[str, dict[str, Any]]:
    """The templates of all pods, by the name of what makes them."""
    kinds = ("Deployment", "StatefulSet", "CronJob", "Job")
    return {
        resource["metadata"]["name"]: _template(resource)
        for resource in written()
        if resource["kind"] in kinds
    }


def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The only container of a pod."""
    (only,) = pod["spec"]["containers"]
    found: dict[str, Any] = only
    return found


def shared_settings() -> dict[str, str]:
    """The variables that all pods have."""
    lines = (DEPLOY / "base/settings.env").read_text().splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    return {name: value for name, _, value in pairs}


def environment(pod: dict[str, Any]) -> dict[str, str]:
    """The variables of a pod, but for those with secrets."""
    own = {each["name"]: each["value"] for each in container(pod).get("env", []) if "value" in each}
    return {**shared_settings(), **own}


def settings(pod: dict[str, Any]) -> Settings:
    """The settings that the process of a pod would have. Raises `ValidationError`."""
    variables = environment(pod)
    names = {name: name.removeprefix("I2II_").lower() for name in variables if "I2II_" in name}
    return Settings(_env_file=None, **{names[name]: variables[name] for name in names})


def probes(pod: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The probes of a pod, by their kind."""
    for kind in ("startup", "liveness", "readiness"):
        if probe := container(pod).get(f"{kind}Probe"):
            yield kind, probe
