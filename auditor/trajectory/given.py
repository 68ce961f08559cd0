"""Weights by their address: of an audit, of one of its checkpoints, or of a safetensors file; never a pickle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pyarrow import fs
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from auditor.errors import InputError
from auditor.storage import RunFolder, reach
from auditor.trajectory.checkpoint import load_state
from auditor.trajectory.manifest import Manifest, checkpoint_folder

_SUFFIX = ".safetensors"
_NEITHER = f"is no run folder with a training, no checkpoint of one and no {_SUFFIX} file"
_DEPTH = 3
"""Levels from a run folder down to a checkpoint in it."""


@dataclass(frozen=True)
class GivenWeights:
    """Parameters and buffers by their names in the module, on the CPU."""

    tensors: dict[str, Tensor]
    address: str
    """Of the checkpoint or file that holds them."""
    class_names: tuple[str, ...] | None
    """Of the audit that trained them, in label order; None where that is not known."""


def read_weights(uri: str) -> GivenWeights:
    """Read weights; momentum is left behind.

    Args:
        uri: Path or URI of a run folder (its last checkpoint), of a checkpoint, or of a `.safetensors` file with a
            module's state dict.

    Raises:
        InputError: It is none of these, cannot be read, or holds a training that has not ended.
    """
    try:
        return _read(uri)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise InputError(f"cannot be read ({' '.join(str(error).split())})") from error


def _read(uri: str) -> GivenWeights:
    reach(uri)
    above, name = _split(uri)
    if name.endswith(_SUFFIX):
        folder = RunFolder(above)
        if not folder.exists(name):
            raise InputError("does not exist")
        return GivenWeights(load(folder.read_bytes(name)), folder.address(name), None)
    folder = RunFolder(uri)
    if folder.filesystem.get_file_info(folder.path).type != fs.FileType.Directory:
        raise InputError(_NEITHER)
    manifest = Manifest.read(folder)
    if manifest is not None:
        if not manifest.complete:
            raise InputError("its training has not ended")
        last = checkpoint_folder(manifest.steps)
        if not folder.exists(last):
            raise InputError(f"its last checkpoint, {last}, is gone")
        return GivenWeights(_tensors(folder, last), folder.address(last), _class_names(folder))
    if not any(name.endswith(_SUFFIX) for name in folder.names("")):
        raise InputError(_NEITHER)
    tensors = _tensors(RunFolder(above), name)
    if not tensors:
        raise InputError(f"is no checkpoint of an audit; a {_SUFFIX} file in it can be named by itself")
    run = uri
    for _ in range(_DEPTH):
        run, _ = _split(run)
    return GivenWeights(tensors, folder.uri, _class_names(RunFolder(run)))


def _tensors(run: RunFolder, folder: str) -> dict[str, Tensor]:
    state = load_state(run, folder)
    return {**state.buffers, **state.parameters}


def _class_names(run: RunFolder) -> tuple[str, ...] | None:
    if not run.exists("dataset.json"):
        return None
    return tuple(str(name) for name in run.read_json("dataset.json")["class_names"])


def _split(uri: str) -> tuple[str, str]:
    """The folder above and the name in it."""
    if "://" not in uri:
        path = Path(uri).expanduser().absolute()
        return str(path.parent), path.name
    base, separator, options = uri.partition("?")
    above, _, name = base.rstrip("/").rpartition("/")
    return f"{above}{separator}{options}", name
