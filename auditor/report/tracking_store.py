"""MLflow's store: how it is opened, and what it accepts."""

from __future__ import annotations

import logging
import math
import os
import posixpath
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError, URLError
from urllib.request import urlopen

from auditor.errors import InputError, StageError
from auditor.report.masking import mask

if TYPE_CHECKING:
    from mlflow import MlflowClient

METRICS_A_CALL = 1000
PARAMETERS_A_CALL = 100
PARAMETER_LENGTH = 6000
"""Longest value of a parameter, in characters."""
_NAME_LENGTH = 250
_REACH_SECONDS = 10


def connect(tracking_uri: str) -> MlflowClient:
    """Open a tracking store or server.

    Args:
        tracking_uri: Such as `sqlite:///mlflow.db` or `https://mlflow.example.org`.

    Raises:
        InputError: It cannot be opened. A server that does not answer is found out in seconds, not in the minutes
            for which MLflow would try again.
    """
    if tracking_uri.startswith(("http://", "https://")):
        _reach(tracking_uri)
    # Standard output belongs to the command's own result.
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    # Creating the tables of a new store is no news.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.WARNING)
    from mlflow import MlflowClient

    try:
        client = MlflowClient(tracking_uri=tracking_uri)
        client.search_experiments(max_results=1)
    # A store raises what its database, driver or server raises.
    except Exception as error:
        if getattr(error, "error_code", None) in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
            raise InputError(
                f"mlflow.tracking_uri {mask(tracking_uri)}: lets nobody in without the right MLFLOW_TRACKING_USERNAME "
                "and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the environment"
            ) from None
        reason = mask(" ".join(str(error).split()))
        raise InputError(f"mlflow.tracking_uri {mask(tracking_uri)}: cannot be opened ({clip(reason, 300)})") from None
    return client


def paged(page: Callable[[str | None], Any]) -> Iterator[Any]:
    """All entries of a list that MLflow gives in pages, each page asked for when its first entry is.

    Args:
        page: What gives the page of a token, None for the first.
    """
    token = None
    while True:
        found = page(token)
        yield from found
        token = found.token
        if not token:
            return


def experiment(client: MlflowClient, name: str) -> str:
    """Id of the experiment of this name, created when it is new.

    Raises:
        InputError: It was deleted in the store.
    """
    from mlflow.exceptions import MlflowException

    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name))
        except MlflowException as error:
            # Another audit may have created it in between.
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)
    if found is None or found.lifecycle_stage != "active":
        raise InputError(f"mlflow.experiment {name}: was deleted in the tracking store; restore it or choose another")
    return str(found.experiment_id)


@contextmanager
def explained(tracking_uri: str) -> Iterator[None]:
    """Turn what MLflow raises into one sentence.

    Its client has tried each request again by then, by its own account for about four minutes (the environment variable
    MLFLOW_HTTP_REQUEST_MAX_RETRIES sets how often).

    Raises:
        StageError: MLflow does not answer, or refuses.
    """
    try:
        yield
    except Exception as error:
        from mlflow.exceptions import MlflowException

        if not isinstance(error, MlflowException):
            raise
        where, reason = f"MLflow at {mask(tracking_uri)}", mask(clip(" ".join(str(error).split()), 200))
        if error.error_code == "ENDPOINT_NOT_FOUND":
            raise StageError(f"{where}: is too old; servers of version 3.17 can do this ({reason})") from error
        raise StageError(
            f"{where}: cannot be used now; nothing is lost, the same command goes on where it stopped ({reason})"
        ) from error


def log_folder(client: MlflowClient, run_id: str, folder: str, path: str | None = None) -> None:
    """Log a folder's files as artifacts of a run, over those of the same names.

    Args:
        client: The store.
        run_id: The run.
        folder: Local.
        path: Folder among the run's artifacts; its top by default.

    Raises:
        StageError: The artifact store cannot be written.
    """
    try:
        client.log_artifacts(run_id, folder, path)
    # Each kind of artifact store raises its own errors.
    except Exception as error:
        where = mask(client.get_run(run_id).info.artifact_uri)
        reason = mask(clip(" ".join(str(error).split()), 200))
        raise StageError(
            f"MLflow's artifact store {where} cannot be written; the run folder holds everything, the same command "
            f"logs it again ({reason})"
        ) from error


def legal_name(name: str) -> str:
    """A parameter's or metric's name with nothing in it that MLflow refuses."""
    plain = re.sub(r"[^\w.\- /:]", "_", name)
    if posixpath.normpath(plain) != plain or plain.startswith(("/", ".")):
        plain = plain.replace("/", "_").lstrip(".") or "_"
    return clip(plain, _NAME_LENGTH)


def clip(text: str, length: int) -> str:
    """The text, cut with an ellipsis at a length."""
    return text if len(text) <= length else f"{text[: length - 1]}…"


def flat_metrics(tree: Mapping[str, Any]) -> dict[str, float]:
    """Numbers of a nested mapping under names like `detection.gif.auroc`; what is no finite number is left out."""
    return {legal_name(name): value for name, value in _numbers(tree, "")}


def _numbers(tree: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{key}.")
        elif isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            yield f"{prefix}{key}", float(value)


def _reach(uri: str) -> None:
    try:
        urlopen(f"{uri.rstrip('/')}/health", timeout=_REACH_SECONDS).close()  # noqa: S310 - checked to be http(s)
    except HTTPError:
        return  # It answers; whether it lets us in is MLflow's to find out.
    except (URLError, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ConnectionError | TimeoutError | socket.gaierror):
            text = f"mlflow.tracking_uri {mask(uri)}: no server answers there ({reason})"
            raise InputError(text) from None
