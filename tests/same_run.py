"""Are two finished runs the same, bit for bit?

    python -m tests.same_run RUN OTHER

prints what differs, a line each; the exit status is 1 if anything does.
"""

import json
import re
import sys
from pathlib import Path

import jax
import numpy as np

from tdpose_jax.checkpoint import FOLDERS, load_state_tree
from tdpose_jax.run_folder import read_metrics

# Of metrics.jsonl: what is measured, not computed.
MEASURED = re.compile("seconds|clips_per|share|memory")


def differences(workdir: Path, other: Path) -> list[str]:
    """What is not equal bit for bit between two finished runs."""
    found = []
    for folder in FOLDERS.values():
        # Of the best, the last one: a kill may leave the one before it too.
        steps = [
            max(int(p.name) for p in (w / folder).iterdir() if p.name.isdigit())
            for w in (workdir, other)
        ]
        if steps[0] != steps[1]:
            found.append(f"{folder}: steps {steps}")
            continue
        paths = [w / folder / str(steps[0]) for w in (workdir, other)]
        trees = [
            dict(jax.tree_util.tree_leaves_with_path(load_state_tree(p))) for p in paths
        ]
        if trees[0].keys() != trees[1].keys():
            found.append(f"{folder}: other tensors")
            continue
        for name, value in trees[0].items():
            if not np.array_equal(value, trees[1][name], equal_nan=True):
                found.append(f"{folder}: {jax.tree_util.keystr(name)}")
        inputs = [
            (path / "input" / "metadata").read_text() for path in paths
        ]  # orbax's JsonSave
        if inputs[0] != inputs[1]:
            found.append(f"{folder}: input state")

    def computed(folder):
        return [
            {k: v for k, v in line.items() if not MEASURED.search(k)}
            for line in read_metrics(folder)
        ]

    lines = [computed(w) for w in (workdir, other)]
    if lines[0] != lines[1]:
        only = [[v for v in lines[k] if v not in lines[1 - k]] for k in (0, 1)]
        found.append(f"metrics.jsonl: {len(lines[0])}, {len(lines[1])} lines; {only}")
    results = [json.loads((w / "results.json").read_text()) for w in (workdir, other)]
    if results[0] != results[1]:
        found.append("results.json")
    return found


if __name__ == "__main__":
    different = differences(*map(Path, sys.argv[1:]))
    print("\n".join(different), end="")
    sys.exit(1 if different else 0)
