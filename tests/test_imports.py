"""The one-way rule of imports, read from the source, and what it is good for, tried in a fresh process."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import auditor

ROOT = Path(auditor.__file__).parent
LAYERS = [
    {"config", "sections", "storage", "errors", "counters", "methods", "precision", "progress"},
    {"influence", "trajectory", "sam", "models", "data", "fidelity"},
    {"distributed", "report", "review"},
    {
        "audit",
        "computation",
        "tracked",
        "opening",
        "plan",
        "model_check",
        "initial_weights",
        "stages",
        "process",
        "parcel",
        "reuse",
        "schedule",
    },
    {"cli", "jobs", "__init__", "__main__"},
]
"""Each may import from those above it in this list, and from its own layer as long as nothing goes round in circles."""
TORCH_ONLY = ("influence", "sam", "models")
HEAVY = ("ray", "mlflow", "pydantic", "pyarrow", "sklearn", "matplotlib")

FILES = {".".join(("auditor", *path.relative_to(ROOT).with_suffix("").parts)): path for path in ROOT.rglob("*.py")}
MODULES = {name.removesuffix(".__init__") for name in FILES}


def imported(path: Path, module: str) -> set[str]:
    """Full names of all modules that a file imports anywhere in it, type checking and functions included."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively"
            # `from auditor import counters` imports a module, `from auditor.config import Config` a name of one.
            below = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in MODULES else node.module for name in below}
    return found


IMPORTS = {name: imported(path, name) for name, path in FILES.items()}


def part(module: str) -> str:
    """The file or folder directly under auditor/ that a module belongs to."""
    return module.split(".")[1] if "." in module else "__init__"


def layer(name: str) -> int:
    return next(index for index, names in enumerate(LAYERS) if name in names)


def test_every_file_and_folder_has_its_layer():
    assert {part(module) for module in FILES} <= set().union(*LAYERS)


@pytest.mark.parametrize("module", sorted(FILES))
def test_imports_point_one_way(module):
    own = [name for name in IMPORTS[module] if name.partition(".")[0] == "auditor"]
    upwards = [name for name in own if layer(part(name)) > layer(part(module))]
    assert not upwards


def test_no_two_parts_import_each_other():
    graph = {name: set() for name in set().union(*LAYERS)}
    for module, names in IMPORTS.items():
        graph[part(module)] |= {part(name) for name in names if name.partition(".")[0] == "auditor"} - {part(module)}
    order = list(TopologicalSorter(graph).static_order())
    assert order.index("sam") < order.index("influence") < order.index("distributed") < order.index("cli")


@pytest.mark.parametrize("module", sorted(name for name in FILES if part(name) in TORCH_ONLY))
def test_influence_sam_and_models_import_torch_alone(module):
    outside = {name.partition(".")[0] for name in IMPORTS[module]} - sys.stdlib_module_names - {"auditor"}
    # torch hands its numbers over as numpy's; scipy and curvlinops solve with them.
    beside = {"torchvision"} if part(module) == "models" else {"numpy", "scipy", "curvlinops"}
    assert outside <= {"torch", *beside}
    inside = {part(name) for name in IMPORTS[module] if name.startswith("auditor")}
    assert inside <= {*TORCH_ONLY, "errors"}


@pytest.mark.parametrize(("library", "homes"), [("ray", {"distributed"}), ("mlflow", {"report", "review"})])
def test_an_engine_has_one_home(library, homes):
    users = {part(module) for module, names in IMPORTS.items() if library in {n.partition(".")[0] for n in names}}
    assert users
    assert users <= homes


def run_python(program: str) -> str:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout


def test_a_notebook_needs_nothing_but_torch():
    """And what is imported works: one SAM step and its influence primitive."""
    blocked = "; ".join(f"sys.modules['{name}'] = None" for name in HEAVY)
    program = f"""
import sys; {blocked}
import torch, auditor.sam, auditor.models, auditor.influence
network = auditor.sam.Network(auditor.models.build_model("small_cnn", {{"widths": [4]}}, (1, 4, 4), 3, seed=0))
state = auditor.sam.State.initial(network)
inputs, labels = torch.randn(6, 1, 4, 4), torch.arange(6) % 3
batch = auditor.sam.MicroBatch(inputs, labels, torch.ones(6), seed=0)
settings = auditor.sam.SGD(0.1, 0.9, 0.0)
state, loss, _ = auditor.sam.sam_step(network, state, [batch], 1, auditor.sam.make_perturbation("sam", 0.05), settings)
precise = auditor.influence.PreciseStatistics(network, [inputs])
direction = auditor.influence.Direction.along(precise, state.parameters, state.buffers, state.parameters)
values, derivatives = auditor.influence.directional_derivatives(network, direction, inputs, labels)
print(len(values), len(derivatives), bool(torch.isfinite(derivatives).all()))
"""
    assert run_python(program).split() == ["6", "6", "True"]


def test_importing_auditor_loads_nothing_heavy_until_a_name_is_asked_for():
    loaded = f"print(sorted({{'numpy', 'torch', *{HEAVY!r}}} & sys.modules.keys()))"
    assert run_python(f"import sys, auditor; {loaded}").strip() == "[]"
    assert run_python(f"import sys, auditor; auditor.InputError; {loaded}").strip() == "[]"
    assert run_python(f"import sys, auditor; auditor.Config; {loaded}").strip() == "['pydantic']"


def test_every_public_name_is_there():
    assert set(auditor.__all__) <= set(dir(auditor))
    for name in (*auditor.__all__, "__version__"):
        assert getattr(auditor, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = auditor.nothing


@pytest.mark.parametrize("module", ["auditor.cli", "auditor.distributed.worker"])
def test_commands_and_the_training_controller_start_without_the_engines(module):
    """`--help` and `submit` wait for none; Ray's controller, which loads the worker's module, waits for no torch."""
    commands = ("ray", "mlflow", "matplotlib", "torch")
    engines = {"auditor.cli": commands, "auditor.distributed.worker": ("torch",)}[module]
    found = run_python(f"import sys, {module}; print(sorted(set({engines!r}) & sys.modules.keys()))")
    assert found.strip() == "[]"
