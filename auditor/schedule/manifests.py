"""An audit's manifests for Kubernetes, made from the templates beside this file."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from auditor.config import Config, flatten
from auditor.errors import InputError
from auditor.parcel import relative_places
from auditor.report.masking import mask
from auditor.schedule.cron import Cron
from auditor.schedule.order import Order
from auditor.schedule.size import size_of

CLUSTER = "auditor"
"""The RayCluster that CronJobs submit to."""
ADDRESS = f"http://{CLUSTER}-head-svc:8265"
"""Of its Jobs API, inside its namespace."""
_MOUNTED = "/etc/auditor/audit.yaml"


@dataclass(frozen=True)
class Manifests:
    """Makes manifests for one audit.

    Args:
        config: The audit's configuration.
        name: Of all that is made.
        image: With auditor in it.
    """

    config: Config
    name: str
    image: str

    def config_map(self) -> str:
        """The resolved configuration.

        Raises:
            InputError: It holds credentials, or places that only this machine knows.
        """
        _refuse(self.config)
        text = yaml.safe_dump(self.config.model_dump(mode="json"), sort_keys=False, allow_unicode=True, width=1000)
        return self._fill("config", config=text.rstrip())

    def cron_job(self, cron: Cron, address: str = ADDRESS) -> str:
        """A CronJob that submits to a cluster which is there."""
        arguments = [*_tick(cron), "--address", address]
        return self._fill("cronjob", cron=cron.expression, time_zone=_zone(cron), arguments=arguments)

    def ray_job(self) -> str:
        """A RayJob: the audit once, on a cluster of its own."""
        return self._fill("rayjob", command=shlex.join(["auditor", "run", _MOUNTED]), config_mounted=True)

    def ray_cron_job(self, cron: Cron) -> str:
        """A RayCronJob: the audit again and again, on a cluster of its own each time."""
        command = shlex.join(["auditor", *_tick(cron)])
        return self._fill(
            "raycronjob", cron=cron.expression, time_zone=_zone(cron), command=command, config_mounted=True
        )

    def ray_cluster(self) -> str:
        """A RayCluster that stays, large enough for this audit."""
        return self._fill("raycluster", config_mounted=False)

    def worker_group(self) -> str:
        """One more group of workers for a RayCluster."""
        return self._fill("workers")

    def _fill(self, template: str, **values: object) -> str:
        environment = Environment(  # noqa: S701 - YAML, where every value that is not ours is quoted
            loader=PackageLoader("auditor.schedule"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
        )
        environment.filters["quoted"] = _quoted
        environment.filters["listed"] = _listed
        text = environment.get_template(f"{template}.yaml.j2").render(
            name=self.name,
            image=self.image,
            cluster=CLUSTER,
            size=size_of(self.config.resources),
            ray_version=metadata.version("ray"),
            schedule_folder=mask(Order(_MOUNTED, self.config.run).beside("schedule")),
            **values,
        )
        return f"{text}\n"


def _tick(cron: Cron) -> list[str]:
    return ["schedule", _MOUNTED, "--once", "--cron", cron.expression, "--time-zone", _zone(cron)]


def _zone(cron: Cron) -> str:
    return "Etc/UTC" if cron.time_zone == "UTC" else cron.time_zone


def _quoted(text: str) -> str:
    """A YAML string, whatever is in it."""
    return json.dumps(text)


def _listed(values: Sequence[str]) -> str:
    return "\n".join(f"- {_quoted(value)}" for value in values)


def _refuse(config: Config) -> None:
    secret = [key for key, value in flatten(config).items() if mask(str(value)) != str(value)]
    if secret:
        raise InputError(
            f"{' and '.join(secret)} holds credentials, which everybody could read in a ConfigMap: they belong into "
            "the secret auditor-credentials"
        )
    if lost := relative_places(config):
        raise InputError(
            f"{' and '.join(lost)} would be in a folder of one pod, and lost with it: name an object store and a "
            "tracking server, or an absolute path on a volume that all pods share"
        )
