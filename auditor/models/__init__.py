"""Network factories. Imports torch and torchvision only, so it works under any launcher."""

from auditor.models.factory import FACTORIES, build_model, find_factory

__all__ = ["FACTORIES", "build_model", "find_factory"]
