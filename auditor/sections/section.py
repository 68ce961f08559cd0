"""What all sections of the configuration share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(ge=1)]
NameText = Annotated[str, Field(coerce_numbers_to_str=True)]
"""A name from the data, where YAML may take `7` for a number."""


class Section(BaseModel):
    """Base of all sections: unknown keys are errors, values never change, docstrings are help texts."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, use_attribute_docstrings=True)
