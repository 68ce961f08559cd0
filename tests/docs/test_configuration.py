from __future__ import annotations

from auditor.config import Config, flatten, parse_config
from docs.make_configuration import TARGET, render


def test_the_page_is_what_the_script_makes():
    assert TARGET.read_text(encoding="utf-8") == render(), "run python docs/make_configuration.py"


def test_every_key_of_a_configuration_stands_on_the_page_with_its_default():
    config = parse_config({"run": "x", "data": {"source": {"kind": "digits"}}})
    page = render()
    sections = {
        heading: text
        for heading, _, text in (part.partition("\n") for part in page.replace("### ", "## ").split("## "))
    }
    for key in flatten(config):
        section, _, name = key.rpartition(".")
        if key not in {"data.source.kind", "train.optimizer.name", "train.perturbation.name", "model.args"}:
            assert f"| `{name}` |" in sections[f"`{section}`" if section else "Top level"], key


def test_every_key_has_a_meaning():
    lines = [line for line in render().splitlines() if line.startswith("| `")]
    assert len(lines) > len(Config.model_fields)
    assert [line for line in lines if not line.rstrip("| ").rpartition(" | ")[2].endswith((".", "`."))] == []
