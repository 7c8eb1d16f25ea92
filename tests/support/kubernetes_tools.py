"""kubectl, and the schemas of Kubernetes and KEDA: `.ci/kubernetes` fetches them.

built = build(folder)                         # what `kubectl apply -k` would send
faults(built, tmp_path / "built.yaml")        # against the schemas, strictly
"""

import os
import subprocess
from pathlib import Path

# The models of KEDA drop a field that they do not know: what they write must be what they read.
KEDA = """
import json, sys, yaml
from cloudcoil.models.keda import v1alpha1
for text in yaml.safe_load_all(sys.stdin):
    if text["apiVersion"] != "keda.sh/v1alpha1":
        continue
    model = getattr(v1alpha1, text["kind"]).model_validate(text)
    if json.loads(model.model_dump_json(by_alias=True, exclude_unset=True)) != text:
        print("KEDA does not know all fields of", text["metadata"]["name"])
"""


def why_not() -> str | None:
    """Why the manifests cannot be validated here, or None."""
    folder = os.environ.get("KUBERNETES_TOOLS")
    return None if folder else "KUBERNETES_TOOLS is not set: .ci/kubernetes FOLDER fetches them"


def _tool(name: str) -> str:
    return f"{os.environ['KUBERNETES_TOOLS']}/bin/{name}"


def build(folder: Path) -> str:
    """Return what `kubectl apply -k` would send of a folder."""
    command = [_tool("kubectl"), "kustomize", str(folder)]
    built = subprocess.run(command, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    return built.stdout


def faults(text: str, file: Path) -> list[str]:
    """Return what the schemas of Kubernetes and of KEDA do not allow; `file` is for the text."""
    file.write_text(text)
    checked = subprocess.run(
        [_tool("kubernetes-validate"), "--strict", "--no-warn", "-k", "1.37.0", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    keda = subprocess.run(
        [_tool("python"), "-c", KEDA], input=text, capture_output=True, text=True, check=False
    )
    lines = [*checked.stdout.splitlines(), *checked.stderr.splitlines()]
    found = [line for line in lines if not line.startswith("INFO")]
    if checked.returncode and not found:
        found.append("not valid")
    return [*found, *keda.stdout.splitlines(), *keda.stderr.splitlines()[-1:]]
