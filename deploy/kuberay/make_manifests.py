"""Writes the manifests under this folder that are made from audit.yaml; the kustomizations are written by hand."""

from __future__ import annotations

import textwrap
from pathlib import Path

from auditor.config import load_config
from auditor.schedule.cron import parse_cron
from auditor.schedule.manifests import Manifests

FOLDER = Path(__file__).parent
WEEKLY = parse_cron("0 3 * * 1")
IMAGE = "auditor:0.1.0"
ON_GPUS = ["resources.gpus_per_worker=1", "resources.cpus_per_worker=4"]


def manifests() -> dict[str, str]:
    """Contents by path below this folder."""
    plain, on_gpus = (
        Manifests(load_config(FOLDER / "audit.yaml", overrides), "digits", IMAGE) for overrides in ([], ON_GPUS)
    )
    return {
        "base/config.yaml": plain.config_map(),
        "base/cronjob.yaml": plain.cron_job(WEEKLY),
        "base/raycluster.yaml": plain.ray_cluster(),
        "overlays/gpu/config.yaml": on_gpus.config_map(),
        "overlays/gpu/workers.yaml": _add_workers(on_gpus.worker_group()),
        "overlays/rayjob/rayjob.yaml": plain.ray_job(),
        "overlays/raycronjob/raycronjob.yaml": plain.ray_cron_job(WEEKLY),
    }


def _add_workers(group: str) -> str:
    return (
        "# Workers with a GPU, none as long as nobody asks for one.\n"
        "- op: add\n  path: /spec/workerGroupSpecs/-\n  value:\n" + textwrap.indent(group, "    ")
    )


if __name__ == "__main__":
    for name, text in manifests().items():
        (FOLDER / name).write_text(text, encoding="utf-8")
