from __future__ import annotations

import pytest
import torch
from torch import nn

from auditor.report.packaging import NotExportableError, save_model


def _network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("examples", [1, 4])
def test_the_loaded_program_equals_the_model_on_any_batch_without_pickle(tmp_path, monkeypatch, dtype, examples):
    import mlflow.pytorch

    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")
    model = _network().to(dtype)
    save_model(model, torch.randn(examples, 1, 8, 8, dtype=dtype), tmp_path / "model", "m-1")
    assert model.training
    names = {path.name for path in (tmp_path / "model").rglob("*")}
    assert "model.pt2" in names
    assert not any(name.endswith((".pkl", ".pth")) for name in names)
    inputs = torch.randn(7, 1, 8, 8, dtype=dtype)
    model.eval()
    loaded = mlflow.pytorch.load_model(str(tmp_path / "model"))
    torch.testing.assert_close(loaded(inputs), model(inputs))
    predicted = mlflow.pyfunc.load_model(str(tmp_path / "model")).predict(inputs.numpy())
    torch.testing.assert_close(torch.as_tensor(predicted), model(inputs).detach())


def test_a_model_that_depends_on_its_data_is_named_not_exportable(tmp_path):
    class Choosy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 2)

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            return self.linear(inputs) if float(inputs.sum()) > 0 else self.linear(-inputs)

    with pytest.raises(NotExportableError, match=r"torch\.export"):
        save_model(Choosy(), torch.randn(2, 4), tmp_path / "model", "m-1")
