"""A model as an MLflow model folder that loads without the model's code and without pickle."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import torch


class NotExportableError(Exception):
    """The model cannot be traced into an exported program."""


def save_model(model: torch.nn.Module, example_input: torch.Tensor, path: Path, model_id: str) -> None:
    """Write a model in MLflow's `pt2` form: a program made by torch.export, on the CPU, in evaluation mode.

    Args:
        model: Takes a batch of inputs and returns logits; it is left as it is.
        example_input: One or more inputs, [b, ...]; the exported program takes any number of them.
        path: Folder to create.
        model_id: Id under which the tracking store knows the model.

    Raises:
        NotExportableError: torch.export cannot trace the model.
    """
    import mlflow.pytorch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    still = copy.deepcopy(model).cpu().eval()
    example = example_input.detach().cpu()
    # A dimension of size one is exported as a constant: two inputs keep the batch dimension free.
    example = example[:2] if len(example) > 1 else torch.cat([example, example])
    with torch.no_grad():
        output = still(example)

    def free_batch(tensor: torch.Tensor) -> Schema:
        return Schema([TensorSpec(np.dtype(str(tensor.dtype).removeprefix("torch.")), (-1, *tensor.shape[1:]))])

    description = Model(model_id=model_id)
    mlflow.pyfunc.add_to_model(
        description, loader_module="mlflow.pytorch", data="data", conda_env="conda.yaml", python_env="python_env.yaml"
    )
    try:
        mlflow.pytorch.save_model(
            still,
            str(path),
            mlflow_model=description,
            signature=ModelSignature(inputs=free_batch(example), outputs=free_batch(output)),
            input_example=example,
            serialization_format="pt2",
            pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}"],
        )
    # torch.export fails in as many ways as there are models; whatever it says is passed on.
    except Exception as error:
        raise NotExportableError(f"torch.export: {' '.join(str(error).split())}") from error
