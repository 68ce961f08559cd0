from __future__ import annotations


def pytest_collection_modifyitems(config, items):
    """Benchmarks are run when they are asked for, and not by whoever chooses among the other markers."""
    if "benchmark" in config.getoption("-m"):
        return
    left_out = [item for item in items if item.get_closest_marker("benchmark")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]
