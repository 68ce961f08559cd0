"""What a job takes along to a cluster: its configuration, and the code that the configuration or the job names."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from auditor.config import Config, flatten, parse_config, read_config
from auditor.errors import InputError
from auditor.report.masking import mask
from auditor.sections.running import AUTO
from auditor.sections.training import PREDECESSOR

COMMANDS = {"audit": "run", "train": "train", "replay": "replay", "verify": "verify", "review": "review"}
"""Jobs by name, and the command that each is."""


@dataclass(frozen=True)
class Parcel:
    """A folder that becomes a job's working directory, and what is run in it. No data and no credentials are inside."""

    folder: Path
    entrypoint: str
    run: str
    """The run folder: the same wherever it is opened."""


def pack(job: str, path: str | Path, overrides: Sequence[str], run: str | None, folder: Path) -> Parcel:
    """Fill a folder with all that a job needs beside an installed auditor.

    The configuration has its overrides applied. The module of a `module:callable` model is taken along, with its
    package, where it lies in the working directory; otherwise the cluster has to have it installed.

    Args:
        job: A key of COMMANDS, or the path of a script such as jobs/audit.py.
        path: The configuration's file.
        overrides: `key.path=value` assignments.
        run: Replaces the run folder.
        folder: An empty one.

    Raises:
        InputError: The job or the configuration is unusable, holds credentials, or names places that only this
            machine knows.
    """
    raw = read_config(path, overrides, run)
    config = parse_config(raw, str(path))
    _refuse_credentials(config, str(path))
    _refuse_relative_places(config, str(path))
    name = Path(path).name
    (folder / name).write_text(yaml.safe_dump(raw, sort_keys=False, allow_unicode=True), encoding="utf-8")
    _take_model(config.model.name, folder)
    return Parcel(folder, f"python {_take_job(job, folder)} {name}", config.run)


def _take_job(job: str, folder: Path) -> str:
    if job in COMMANDS:
        return f"-m auditor {COMMANDS[job]}"
    script = Path(job)
    if script.suffix != ".py":
        raise InputError(f"job {job}: is not one of {', '.join(COMMANDS)} and not a Python script")
    try:
        shutil.copyfile(script, folder / script.name)
    except OSError as error:
        raise InputError(f"job {job}: cannot be read ({error.strerror})") from error
    return script.name


def _take_model(name: str, folder: Path) -> None:
    module, separator, _ = name.partition(":")
    package = module.split(".")[0]
    if not separator or package == "auditor":
        return
    if Path(f"{package}.py").is_file():
        shutil.copyfile(f"{package}.py", folder / f"{package}.py")
    elif Path(package).is_dir():
        for file in Path(package).rglob("*.py"):
            (folder / file.parent).mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, folder / file)


def _refuse_credentials(config: Config, origin: str) -> None:
    found = [key for key, value in flatten(config).items() if mask(str(value)) != str(value)]
    if found:
        raise InputError(
            f"{origin}: everybody who sees the job could read the credentials in {' and '.join(found)}; set them in "
            "the cluster's environment"
        )


def _refuse_relative_places(config: Config, origin: str) -> None:
    if found := relative_places(config):
        raise InputError(
            f"{origin}: a job would look for {' and '.join(found)} in a working directory of its own: name a URI, or "
            "an absolute path that all machines of the cluster share"
        )


def relative_places(config: Config) -> list[str]:
    """Keys with the places they name, of all that only this machine's working directory would find."""
    return [f"{key} {place}" for key, place in _places(config) if "://" not in place and not place.startswith("/")]


def _places(config: Config) -> Iterator[tuple[str, str]]:
    yield "run", config.run
    source = config.data.source
    if source.kind in ("parquet", "folder"):
        yield from (
            (f"data.source.{split}", place)
            for split in ("train", "validation", "test")
            if (place := getattr(source, split)) is not None
        )
    if config.model.weights not in (None, PREDECESSOR):
        yield "model.weights", str(config.model.weights)
    if config.review.predecessor not in (None, AUTO):
        yield "review.predecessor", str(config.review.predecessor)
    # Of SQLite's addresses, those with a fourth slash are absolute.
    uri = config.mlflow.tracking_uri
    yield "mlflow.tracking_uri", uri.removeprefix("sqlite:///") if uri.startswith("sqlite:") else uri
