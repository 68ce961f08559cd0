"""Writes docs/configuration.md from the configuration's models: `python docs/make_configuration.py`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from auditor.config import _FREE, Config
from auditor.models import FACTORIES

TARGET = Path(__file__).with_name("configuration.md")

INTRODUCTION = """\
# Configuration

<!-- Made by docs/make_configuration.py from auditor/sections and auditor/models: change those and run it again. -->

One YAML file describes one audit. Only `run` and `data.source` have no default, so this is a whole configuration:

```yaml
run: runs/digits
data:
  source: {kind: digits}
```

* An unknown key or an impossible value is an error that names the key; nothing is ignored.
* On the command line `--set key.path=value` overrides any key (repeatable, values in YAML), and `--run DIR` the run
  folder: `auditor run audit.yaml --set train.epochs=10 --set 'model.args={widths: [16, 32]}' --run runs/short`.
* The run folder keeps the resolved configuration as `config.yaml`, with package versions and the git revision. Any
  command takes it in place of the original.
* A run folder belongs to one configuration: a difference that would change the result is refused and shown. These may
  differ when the folder is used again: FREE.
* Micro-batch, ledger, precise statistics, GIF: [concepts](concepts.md) says what the words mean.
* Credentials have no place here. MLflow and object stores read theirs from their own environment variables.
"""


def render() -> str:
    """The whole page."""
    schema = Config.model_json_schema()
    free = ", ".join(f"`{key}*`" if key.endswith(".") else f"`{key}`" for key in _FREE)
    parts = [INTRODUCTION.replace("FREE", free), *_section("", schema, schema["$defs"]), *_models()]
    return "\n".join(parts).rstrip() + "\n"


def _section(path: str, model: dict[str, Any], known: dict[str, Any]) -> Iterator[str]:
    """A heading, a table of plain keys, then the sections below, which come as keys of their own."""
    level = "##" if "." not in path else "###"
    yield f"{level} {f'`{path}`' if path else 'Top level'}\n"
    yield f"{_text(model.get('description', ''))}\n"
    plain: dict[str, dict[str, Any]] = {}
    nested: list[str] = []
    required = model.get("required", [])
    for name, field in model["properties"].items():
        if _below(field, known):
            nested.append(name)
        else:
            plain[name] = field
    if plain:
        yield _table(plain, required, known)
    for name in nested:
        deeper = f"{path}.{name}" if path else name
        field = model["properties"][name]
        if "discriminator" in field:
            yield from _variants(deeper, field, name in required, known)
        else:
            yield from _section(deeper, _below(field, known)[0], known)


def _variants(path: str, field: dict[str, Any], required: bool, known: dict[str, Any]) -> Iterator[str]:
    """One of several sections, told apart by the value of one key."""
    yield f"### `{path}`\n"
    key, models = field["discriminator"]["propertyName"], _below(field, known)
    kinds = _either([model["properties"][key]["const"] for model in models])
    about = _text(field["description"]).removesuffix(".") + ("; required" if required else "")
    yield f"{about}. Its `{key}` is {kinds}, and the other keys depend on it.\n"
    for model in models:
        fields = {name: field for name, field in model["properties"].items() if name != key}
        yield f"**`{key}: {model['properties'][key]['const']}`** {_text(model['description'])}\n"
        if fields:
            yield _table(fields, model.get("required", []), known)


def _below(field: dict[str, Any], known: dict[str, Any]) -> list[dict[str, Any]]:
    """The sections that a key holds: one, or several to choose from."""
    options = field.get("oneOf", [field])
    models = [known[option["$ref"].rpartition("/")[2]] for option in options if "$ref" in option]
    return [model for model in models if "properties" in model]


def _table(fields: dict[str, dict[str, Any]], required: list[str], known: dict[str, Any]) -> str:
    lines = ["| key | value | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in fields.items():
        default = "**required**" if name in required else f"`{_yaml(field['default'])}`"
        cells = [f"`{name}`", _type(field, known), default, _text(field.get("description", ""))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _type(field: dict[str, Any], known: dict[str, Any], plural: bool = False) -> str:
    """What may stand there, in words."""
    if "$ref" in field:
        return _type(known[field["$ref"].rpartition("/")[2]], known, plural)
    if "anyOf" in field:
        return ", or ".join(_type(option, known) for option in field["anyOf"])
    if "enum" in field or "const" in field:
        return _either(field.get("enum", [field.get("const")]))
    match field["type"]:
        case "array" if "prefixItems" in field:
            return f"list of {len(field['prefixItems'])} {_type(field['prefixItems'][0], known, plural=True)}"
        case "array":
            return f"list of {_type(field['items'], known, plural=True)}"
        case "object":
            return "keys and values"
        case "boolean":
            return "`true` or `false`"
        case kind:
            return f"{kind}{'s' if plural else ''}{_bounds(field)}"


def _either(values: list[Any]) -> str:
    *first, last = (f"`{value}`" for value in values)
    return f"{', '.join(first)} or {last}" if first else last


def _bounds(field: dict[str, Any]) -> str:
    signs = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}
    bounds = [f"{sign} {_number(field[key])}" for key, sign in signs.items() if key in field]
    return f" {', '.join(bounds)}" if bounds else ""


def _number(value: float) -> str:
    return "2³²" if value == 2**32 else f"{value:g}"


def _models() -> Iterator[str]:
    """The arguments of the built-in networks, from their signatures and docstrings."""
    yield "## Networks\n"
    yield (
        "What `model.args` may hold for each `model.name`. A network of your own by `module:callable` takes what its "
        "factory takes: see [bring your own](bring-your-own.md).\n"
    )
    for name, factory in FACTORIES.items():
        text = inspect.getdoc(factory) or ""
        yield f"**`name: {name}`** {text.splitlines()[0]}\n"
        lines = ["| key | default | meaning |", "| --- | --- | --- |"]
        described = _described(text)
        for key, default in _arguments(factory):
            lines.append(f"| `{key}` | `{_yaml(default)}` | {_text(described[key])} |")
        yield "\n".join(lines) + "\n"


def _arguments(factory: Callable[..., Any]) -> Iterator[tuple[str, Any]]:
    for parameter in inspect.signature(factory).parameters.values():
        if parameter.default is not inspect.Parameter.empty:
            default = parameter.default
            yield parameter.name, list(default) if isinstance(default, tuple) else default


def _described(docstring: str) -> dict[str, str]:
    """The lines under `Args:` of a docstring, by argument."""
    arguments = docstring.partition("Args:\n")[2].partition("\n\n")[0]
    return dict(re.findall(r"^    (\w+): (.+?)(?=\n    \w|\Z)", arguments, re.S | re.M))


def _text(text: str) -> str:
    """One line that Markdown shows as it stands, in a table too."""
    return re.sub(r"<(?=\w)", "&lt;", " ".join(text.split()).replace("|", "&#124;"))


def _yaml(value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1000)
    return text.removesuffix("...\n").strip()


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")
