"""What scoring costs beside other libraries: `python docs/benchmarks/scoring.py`, after `pip install 'auditor[peers]'`.

Gradients of all training rows times the gradient of one query sample, at one checkpoint, of one network with random
rows. Each contender runs in a process of its own, in turns with forward passes over the same rows: the unit of time.
Its scores are checked against those of a dual forward pass over the parameters that it knows.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from auditor.distributed.computing import set_up
from auditor.influence import (
    Derivatives,
    Directions,
    Point,
    PreciseStatistics,
    directional_derivatives,
    ekfac,
    query_gradient,
    sample_logits,
)
from auditor.influence.ekfac import EKFAC
from auditor.models import build_model
from auditor.sam import Network

CLASSES = 10
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "demo": ({"widths": [16, 32]}, (1, 8, 8)),
    "cifar": ({}, (3, 32, 32)),
    "resnet9": ({"widths": [64, 128, 256], "blocks": 1}, (3, 32, 32)),
}
Everything = Callable[[str], bool]
Contender = Callable[..., tuple[Callable[[], Tensor], Everything | None]]


class Problem:
    """A network, training rows and one query sample."""

    def __init__(self, network: str, rows: int, batch: int, device: str) -> None:
        args, shape = NETWORKS[network]
        self.settings, self.batch, self.device = (args, shape), batch, torch.device(device)
        torch.manual_seed(0)
        self.model = build_model("resnet", args, shape, CLASSES, seed=0).to(self.device).eval()
        self.network = Network(self.model)
        self.parameters, self.buffers = self.network.parameters(), self.network.buffers()
        # Running statistics, which are all that the others know.
        self.precise = PreciseStatistics(self.network, ())
        self.point = Point.at(self.precise, self.parameters, self.buffers)
        self.inputs = torch.randn(rows, *shape, device=self.device)
        self.labels = torch.arange(rows, device=self.device) % CLASSES
        self.query = torch.randn(1, *shape, device=self.device), torch.tensor([3], device=self.device)
        self.data = TensorDataset(self.inputs, self.labels)

    def batches(self) -> DataLoader[Any]:
        return DataLoader(self.data, batch_size=self.batch, shuffle=False)

    def forward(self) -> None:
        """The module as anyone calls it."""
        self._each(self.model)

    def evaluate(self) -> None:
        """The same as auditor computes it."""
        self._each(partial(sample_logits, self.network, self.point))

    def _each(self, work: Callable[[Tensor], object]) -> None:
        with torch.no_grad():
            for inputs, _ in self.batches():
                work(inputs)

    def gradient(self) -> dict[str, Tensor]:
        return query_gradient(self.network, self.precise, self.point, [self.query])

    def derivatives(
        self, tangents: list[dict[str, Tensor]], compile: bool = False, dtype: torch.dtype | None = None
    ) -> Derivatives:
        many = Directions.along(self.precise, self.parameters, self.buffers, tangents)
        return Derivatives(self.network, [many], compile, dtype)

    def along(self, tangents: list[dict[str, Tensor]], dtype: torch.dtype | None = None) -> Tensor:
        """[rows, tangents]"""
        return self.score(self.derivatives(tangents, dtype=dtype))

    def score(self, derivatives: Derivatives) -> Tensor:
        return torch.cat([derivatives(inputs, labels) for inputs, labels in self.batches()])

    def outside_norms(self, name: str) -> bool:
        """Whether a parameter is none of BatchNorm's, which not all libraries know."""
        return name.rpartition(".")[0] not in self.network.norms

    def reference(self, known: Everything) -> Tensor:
        """[rows], over the parameters that a contender knows."""
        tangent = {name: value if known(name) else torch.zeros_like(value) for name, value in self.gradient().items()}
        direction = Directions.along(self.precise, self.parameters, self.buffers, [tangent])[0]
        return torch.cat([directional_derivatives(self.network, direction, *batch)[1] for batch in self.batches()])


def every(_: str) -> bool:
    return True


def ours(queries: int = 1, dtype: torch.dtype | None = None) -> Contender:
    def prepare(problem: Problem, _: Path) -> tuple[Callable[[], Tensor], Everything | None]:
        return lambda: problem.along([problem.gradient()] * queries, dtype)[:, queries // 2], every

    return prepare


def ours_compiled(dtype: torch.dtype | None = None) -> Contender:
    def prepare(problem: Problem, _: Path) -> tuple[Callable[[], Tensor], Everything | None]:
        derivatives = problem.derivatives([problem.gradient()], True, dtype)  # once, before time is taken
        return lambda: problem.score(derivatives)[:, 0], every

    return prepare


def ours_ekfac(problem: Problem, _: Path) -> tuple[Callable[[], Tensor], Everything | None]:
    def run() -> Tensor:
        factors = EKFAC(problem.model, list(problem.batches()), seed=0)
        return problem.along([factors.inverse(0.01)(problem.gradient())])[:, 0]

    return run, None


def captum(problem: Problem, folder: Path) -> tuple[Callable[[], Tensor], Everything | None]:
    from captum.influence import TracInCP

    tracin = TracInCP(
        problem.model,
        problem.data,
        [_saved(problem, folder)],
        _load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=problem.batch,
        sample_wise_grads_per_batch=True,
    )
    loader = DataLoader(TensorDataset(*problem.query), batch_size=1)
    return lambda: tracin.influence(loader, aggregate=True)[0], problem.outside_norms


def captum_fast(problem: Problem, folder: Path) -> tuple[Callable[[], Tensor], Everything | None]:
    from captum.influence import TracInCPFast

    tracin = TracInCPFast(
        problem.model,
        problem.model[-1],
        problem.data,
        [_saved(problem, folder)],
        _load,
        loss_fn=nn.CrossEntropyLoss(reduction="sum"),
        batch_size=problem.batch,
    )
    weight = f"{len(problem.model) - 1}.weight"
    return lambda: tracin.influence(problem.query)[0], lambda name: name == weight


def dattri(problem: Problem, _: Path) -> tuple[Callable[[], Tensor], Everything | None]:
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    def loss(parameters: Any, pair: tuple[Tensor, Tensor]) -> Tensor:
        image, label = pair
        logits = torch.func.functional_call(problem.model, parameters, (image.unsqueeze(0),))
        return cross_entropy(logits, label.unsqueeze(0))

    task = AttributionTask(loss, problem.model, dict(problem.model.state_dict()))
    tracin = TracInAttributor(task, torch.ones(1), normalized_grad=False, device=str(problem.device))
    tracin.projector_kwargs = None  # its gradients whole; by default they are projected to 512 numbers
    query = DataLoader(TensorDataset(*problem.query), batch_size=1)
    return lambda: tracin.attribute(problem.batches(), query)[:, 0], every


def kronfluence(strategy: str, factors: bool) -> Contender:
    def prepare(problem: Problem, folder: Path) -> tuple[Callable[[], Tensor], Everything | None]:
        from kronfluence import Analyzer, FactorArguments, ScoreArguments, Task, prepare_model

        class Classification(Task):  # type: ignore[misc]
            def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
                logits = model(batch[0])
                with torch.no_grad():
                    drawn = logits.softmax(1).multinomial(1)[:, 0] if sample else batch[1]
                return cross_entropy(logits, drawn, reduction="sum")

            def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
                return cross_entropy(model(batch[0]), batch[1], reduction="sum")

        task = Classification()
        args, shape = problem.settings
        model = build_model("resnet", args, shape, CLASSES, seed=0).to(problem.device).eval()
        analyzer = Analyzer(
            "peers",
            prepare_model(model, task),
            task,
            cpu=problem.device.type == "cpu",
            disable_tqdm=True,
            output_dir=str(folder),
        )
        sizes = {"per_device_batch_size": problem.batch, "overwrite_output_dir": True}

        def fit() -> None:
            analyzer.fit_all_factors("factors", problem.data, factor_args=FactorArguments(strategy=strategy), **sizes)

        if strategy != "identity" and not factors:
            fit()

        def run() -> Tensor:
            if strategy == "identity" or factors:
                fit()
            analyzer.compute_pairwise_scores(
                "scores",
                "factors",
                query_dataset=TensorDataset(*problem.query),
                train_dataset=problem.data,
                per_device_query_batch_size=1,
                per_device_train_batch_size=problem.batch,
                score_args=ScoreArguments(damping_factor=0.01),
                overwrite_output_dir=True,
            )
            found: Tensor = analyzer.load_pairwise_scores("scores")["all_modules"][0]
            return found

        return run, problem.outside_norms if strategy == "identity" else None

    return prepare


def ours_ekfac_of_many_rows(problem: Problem, folder: Path) -> tuple[Callable[[], Tensor], Everything | None]:
    ekfac._DRAWS = 1
    return ours_ekfac(problem, folder)


def forward(work: Callable[[Problem], None]) -> Contender:
    def prepare(problem: Problem, _: Path) -> tuple[Callable[[], Tensor], Everything | None]:
        def run() -> Tensor:
            work(problem)
            return torch.zeros(len(problem.inputs))

        return run, None

    return prepare


CONTENDERS: dict[str, Contender] = {
    "a forward pass": forward(Problem.forward),
    "a forward pass of auditor": forward(Problem.evaluate),
    "auditor, one query": ours(),
    "auditor, one query, compiled": ours_compiled(),
    "auditor, one query, bfloat16": ours(dtype=torch.bfloat16),
    "auditor, one query, bfloat16, compiled": ours_compiled(torch.bfloat16),
    "auditor, 16 queries": ours(16),
    "auditor, 16 queries, bfloat16": ours(16, torch.bfloat16),
    "auditor, 256 queries": ours(256),
    "auditor, 256 queries, bfloat16": ours(256, torch.bfloat16),
    "captum TracInCP": captum,
    "captum TracInCPFast (last layer alone)": captum_fast,
    "dattri TracIn": dattri,
    "kronfluence, identity": kronfluence("identity", factors=False),
    "kronfluence, EK-FAC, its factors known": kronfluence("ekfac", factors=False),
    "kronfluence, EK-FAC with its factors": kronfluence("ekfac", factors=True),
    "auditor, EK-FAC with its factors": ours_ekfac,
    "auditor, EK-FAC with its factors, one drawn label a row": ours_ekfac_of_many_rows,
}


def _saved(problem: Problem, folder: Path) -> str:
    path = folder / "model.pt"
    torch.save(problem.model.state_dict(), path)
    return str(path)


def _load(model: nn.Module, path: str) -> float:
    model.load_state_dict(torch.load(path, weights_only=True))
    return 1.0


def measure(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """Time and memory of one contender, in this process."""
    set_up(given.threads)
    problem = Problem(given.network, given.rows, given.batch, given.device)
    with tempfile.TemporaryDirectory() as folder:
        try:
            run, known = CONTENDERS[name](problem, Path(folder))
        except ImportError:
            return {"missing": True}
        # Of the first time: later ones find the memory that it left.
        memory = _peak(run, problem.device)
        problem.forward()
        found = run().detach().double().cpu()
        error = None
        if known is not None:
            expected = problem.reference(known).cpu()
            error = float((found - expected).norm() / expected.norm())
        forward, own = [], []
        for _ in range(given.repeats):
            forward.append(_seconds(problem.forward, problem.device))
            own.append(_seconds(run, problem.device))
    return {"ratio": min(own) / min(forward), "seconds": min(own), "error": error, "memory": memory}


def profile(given: argparse.Namespace) -> None:
    """Print the kernels of one query's pass over all rows, the longest first."""
    set_up(given.threads)
    problem = Problem(given.network, given.rows, given.batch, given.device)
    derivatives = problem.derivatives([problem.gradient()], given.compile)
    problem.score(derivatives)
    with torch.profiler.profile() as seen:
        problem.score(derivatives)
    events = sorted(seen.key_averages(), key=lambda event: -event.self_cpu_time_total)
    total = sum(event.self_cpu_time_total for event in events)
    print("| kernel | share of the time |\n| --- | ---: |")
    for event in events[:8]:
        print(f"| {event.key} | {event.self_cpu_time_total / total:.1%} |")


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """CPU time on a CPU, since the machine may be shared; time by the clock on an accelerator."""
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    _wait(device)
    began = clock()
    work()
    _wait(device)
    return clock() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(work: Callable[[], object], device: torch.device) -> float:
    """MiB that work takes beside what was there before."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        work()
        return (torch.cuda.max_memory_allocated(device) - before) / 2**20
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = _status("VmRSS")
    work()
    return max(0.0, (_status("VmHWM") - before) / 1024)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))


def main() -> None:
    """Print the table as Markdown, or a profile."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", choices=sorted(NETWORKS), default="cifar")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only")
    parser.add_argument("--profile", action="store_true", help="where the time of one query's pass goes, on a CPU")
    parser.add_argument("--compile", action="store_true", help="what is profiled")
    given = parser.parse_args()
    if given.profile:
        profile(given)
        return
    if given.only:
        print(json.dumps(measure(given.only, given)))
        return
    print("| | forward passes | memory, MiB | difference to the dual forward pass |")
    print("| --- | ---: | ---: | ---: |")
    for name in CONTENDERS:
        command = [sys.executable, "-W", "ignore", *sys.argv, "--only", name]
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise SystemExit(f"{name}:\n{done.stderr[-3000:]}")
        found = json.loads(done.stdout.splitlines()[-1])
        if found.get("missing"):
            print(f"| {name} | not installed | | |", flush=True)
            continue
        error = found["error"]
        shown = "–" if error is None else f"{error:.1e}"
        print(f"| {name} | {found['ratio']:.1f} | {found['memory']:.0f} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
