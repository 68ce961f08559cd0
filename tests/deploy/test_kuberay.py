from __future__ import annotations

import copy
import json
import re
import shlex

import jsonschema
import pytest
import yaml

from auditor.cli import cli
from auditor.config import load_config, parse_config
from auditor.schedule.cron import parse_cron
from auditor.schedule.manifests import ADDRESS, Manifests
from auditor.schedule.names import MOST_CHARACTERS
from deploy.kuberay.make_manifests import FOLDER, manifests
from tests.deploy.schemas import build, check, need_kuberay

OVERLAYS = ["cpu", "gpu", "rayjob", "raycronjob"]
CRON = parse_cron("0 3 * * 1", "Europe/Berlin")
MADE = {name: list(yaml.safe_load_all(text)) for name, text in manifests().items() if not name.endswith("workers.yaml")}
DOCUMENTS = [document for documents in MADE.values() for document in documents]
by_document = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda document: document["kind"])


def pods(node):
    """Every pod's spec in a document."""
    if isinstance(node, dict):
        if "containers" in node:
            yield node
        for value in node.values():
            yield from pods(value)
    elif isinstance(node, list):
        for value in node:
            yield from pods(value)


def of_kind(documents, kind):
    return [document for document in documents if document["kind"] == kind]


@pytest.mark.parametrize("name", sorted(manifests()))
def test_the_files_are_what_the_command_makes(name):
    assert (FOLDER / name).read_text() == manifests()[name], "run python deploy/kuberay/make_manifests.py"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_overlays_build_and_kubernetes_takes_what_they_make(overlay):
    need_kuberay()
    documents = build(FOLDER / "overlays" / overlay)
    kinds = {"rayjob": ["ConfigMap", "RayJob"], "raycronjob": ["ConfigMap", "RayCronJob"]}
    assert sorted(document["kind"] for document in documents) == kinds.get(
        overlay, ["ConfigMap", "CronJob", "RayCluster"]
    )
    for document in documents:
        check(document)
    images = {container["image"] for pod in pods(documents) for container in pod["containers"]}
    assert images == {"registry.example.org/auditor:0.1.0"}


def test_the_gpu_overlay_adds_workers_that_exist_while_they_are_needed():
    [cluster] = of_kind(build(FOLDER / "overlays/gpu"), "RayCluster")
    groups = {group["groupName"]: group for group in cluster["spec"]["workerGroupSpecs"]}
    assert groups.keys() == {"cpu", "gpu"}
    [container] = groups["gpu"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert all(group["minReplicas"] == group["replicas"] == 0 < group["maxReplicas"] for group in groups.values())
    [config] = of_kind(build(FOLDER / "overlays/gpu"), "ConfigMap")
    assert parse_config(yaml.safe_load(config["data"]["audit.yaml"])).resources.gpus_per_worker == 1


@pytest.mark.parametrize("form", ["cron_job", "ray_job", "ray_cron_job"])
@pytest.mark.parametrize("gpus", [0, 0.5, 2])
def test_kubernetes_takes_what_is_made_for_any_audit(form, gpus):
    need_kuberay()
    raw = {
        "run": "s3://audits/it's: #1",
        "data": {"source": {"kind": "digits"}, "class_names": ["- a", "b: {c}", 'd "e" \\', "ü\n\nx", "{{ f }}"]},
        "mlflow": {"tracking_uri": "http://mlflow:5000"},
        "resources": {"gpus_per_worker": gpus, "train_workers": 3},
    }
    made = Manifests(parse_config(raw), "one", "registry.example.org/a/auditor:1.0@sha256:abc")
    text = made.config_map() + "---\n" + (made.ray_job() if form == "ray_job" else getattr(made, form)(CRON))
    config, job = yaml.safe_load_all(text)
    check(config)
    check(job)
    assert parse_config(yaml.safe_load(config["data"]["audit.yaml"])) == made.config


def test_an_unknown_key_would_not_be_taken():
    """The checks above would pass with schemas that know nothing."""
    need_kuberay()
    for document in DOCUMENTS:
        for spoil in (lambda d: d.update(spce={}), lambda d: next(pods(d), d).update(contianers=[])):
            spoiled = copy.deepcopy(document)
            spoil(spoiled)
            with pytest.raises(jsonschema.ValidationError):
                check(spoiled)


@by_document
def test_names_leave_room_for_what_kuberay_hangs_on_to_them(document):
    assert len(document["metadata"]["name"]) <= MOST_CHARACTERS.get(document["kind"].lower(), 63)


@by_document
def test_secrets_are_only_named(document):
    text = json.dumps(document)
    assert not re.search(r"(?i)password|secret_access_key|\btoken\b[^}]*\"value\": \"(?!token)", text)
    for pod in pods(document):
        for container in pod["containers"]:
            assert container["envFrom"] == [{"secretRef": {"name": "auditor-credentials"}}]


@by_document
def test_no_container_may_more_than_it_needs(document):
    for pod in pods(document):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in pod["containers"]:
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert "memory" in container["resources"]["limits"]
            # Only the head needs a token for Kubernetes: its autoscaler asks for pods.
            assert container["name"] == "ray-head" or pod["automountServiceAccountToken"] is False


@by_document
def test_every_volume_is_there_and_shared_memory_is_memory(document):
    for pod in pods(document):
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for container in pod["containers"]:
            assert {mount["name"] for mount in container["volumeMounts"]} == volumes.keys()
            if container["name"].startswith("ray-"):
                mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
                assert mounts["shared-memory"].startswith("/dev/")
                assert volumes["shared-memory"]["emptyDir"]["medium"] == "Memory"


def test_clusters_ask_for_a_token_and_keep_their_head_on_machines_that_stay():
    clusters = [spec for document in DOCUMENTS for spec in ray_clusters(document)]
    assert len(clusters) == 3
    for spec in clusters:
        assert spec["authOptions"] == {"mode": "token", "secretName": "auditor-ray-token"}
        assert spec["enableInTreeAutoscaling"] is True
        head = spec["headGroupSpec"]["template"]["spec"]
        assert "tolerations" not in head
        [term] = head["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
        assert {rule["operator"] for rule in term["matchExpressions"]} == {"NotIn"}
        for group in spec["workerGroupSpecs"]:
            assert group["template"]["spec"]["tolerations"]


def ray_clusters(node):
    if isinstance(node, dict):
        if "headGroupSpec" in node:
            yield node
        for value in node.values():
            yield from ray_clusters(value)


def test_the_cron_job_starts_our_command_and_never_twice():
    [job] = of_kind(DOCUMENTS, "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    assert (job["spec"]["schedule"], job["spec"]["timeZone"]) == ("0 3 * * 1", "Etc/UTC")
    [pod] = pods(job)
    [container] = pod["containers"]
    name, *arguments = container["args"]
    given = cli.commands[name].make_context(name, arguments).params
    assert (given["once"], given["expression"], given["address"]) == (True, "0 3 * * 1", ADDRESS)
    [cluster] = of_kind(DOCUMENTS, "RayCluster")
    assert ADDRESS.startswith(f"http://{cluster['metadata']['name']}-head-svc:")


@pytest.mark.parametrize("kind", ["RayJob", "RayCronJob"])
def test_ray_jobs_start_our_command_on_a_cluster_that_goes(kind):
    [document] = of_kind(DOCUMENTS, kind)
    spec = document["spec"] if kind == "RayJob" else document["spec"]["jobTemplate"]
    command, name, *arguments = shlex.split(spec["entrypoint"])
    assert command == "auditor"
    assert cli.commands[name].make_context(name, arguments).params["config"] == "/etc/auditor/audit.yaml"
    assert spec["shutdownAfterJobFinishes"] is True
    [head] = pods(spec["rayClusterSpec"]["headGroupSpec"])
    assert {"name": "config", "mountPath": "/etc/auditor", "readOnly": True} in head["containers"][0]["volumeMounts"]


def test_the_configuration_is_the_one_in_the_folder():
    [config, *_] = MADE["base/config.yaml"]
    assert parse_config(yaml.safe_load(config["data"]["audit.yaml"])) == load_config(FOLDER / "audit.yaml")
