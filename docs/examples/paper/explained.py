"""What stands behind single mistakes of the model: `python docs/examples/paper/explained.py RUN`.

Of an audit whose truth is known and that `auditor explain` has explained: for the training samples that helped and that
harmed the misclassified validation images most, how many have a wrong label, and how often their label and their true
class are the image's own.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from auditor import RunFolder


def main() -> None:
    """Print the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run")
    run = RunFolder(parser.parse_args().run)
    train = run.read_table("dataset/train", columns=["label", "true_label"])
    given, true = (np.asarray(train[name], dtype=np.int64) for name in ("label", "true_label"))
    images = run.read_table("explain/images.parquet")
    label_of = dict(zip(images["sample_id"].to_pylist(), images["label"].to_pylist(), strict=True))
    found = run.read_table("explain/influence.parquet")
    rows, sides = np.asarray(found["row"]), np.asarray(found["side"])
    wanted = np.array([label_of[image] for image in found["image"].to_pylist()])
    print("| training samples | number | wrong label | label is the image's | true class is the image's |")
    print("| --- |" + " ---: |" * 4)
    for side in ("helped", "harmed"):
        print(_line(f"that {side} most", given, true, rows[sides == side], wanted[sides == side]))
    print(f"| all | {len(given)} | {np.mean(given != true):.0%} | – | – |")


def _line(
    name: str,
    given: NDArray[np.int64],
    true: NDArray[np.int64],
    rows: NDArray[np.int32],
    wanted: NDArray[np.int64],
) -> str:
    shares = [given[rows] != true[rows], given[rows] == wanted, true[rows] == wanted]
    return f"| {name} | {len(rows)} | {' | '.join(f'{share.mean():.0%}' for share in shares)} |"


if __name__ == "__main__":
    main()
