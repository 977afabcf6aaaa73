"""Accuracy of a finished run evaluated in bfloat16 against float32.

    python -m benchmarks.bfloat16_parity RUN ...

Parameters, BatchNorm statistics, heatmaps and the decoding of joints stay in float32, as
on accelerators, where bfloat16 is the default. Writes runs/bench/bfloat16/<RUN>.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks import common
from configs.default import get_config


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", type=Path, nargs="+")
    flags = parser.parse_args()
    for run in flags.runs:
        results = {name: evaluate_in(run, name) for name in ("float32", "bfloat16")}
        (full, full_xy), (half, half_xy) = results.values()
        distance = np.concatenate(
            [np.linalg.norm(full_xy[i] - half_xy[i], axis=-1) for i in full_xy]
        )
        summary = {
            "float32": full,
            "bfloat16": half,
            "difference": {name: half[name] - full[name] for name in full},
            "joint_px": {
                f"p{q}": float(np.percentile(distance, q)) for q in (50, 95, 99)
            },
            "environment": common.environment(),
        }
        path = common.FOLDER / "bfloat16" / f"{run.name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(summary, indent=1) + "\n")
        print(run, {k: v for k, v in summary.items() if k != "environment"})


def evaluate_in(run: Path, dtype: str):
    """Totals of the run's metric, and joints by sample id."""
    from data_pipelines.input_pipeline import make_eval_iterator
    from tdpose_jax import evaluate, predictors, setup_run
    from tdpose_jax.checkpoint import load_variables
    from tdpose_jax.interop.export_torch import read_config

    config = get_config().unlock()  # has the fields that older runs do not know
    config.update(read_config(run))
    config.model.dtype = dtype
    parts = setup_run.make_parts(config)
    variables, _ = load_variables(run, config.eval.checkpoint)
    split = config.data.eval_split
    collector = evaluate.predict_split(
        predictors.make_predictor(config, parts.model, variables, parts.skeleton),
        make_eval_iterator(config.data, split, config.eval.batch_size, 0, 1),
    )
    truth = Path(config.data.root) / "ground_truth" / split
    results = evaluate.score_predictions(
        collector, truth, parts.skeleton, config.eval.metric, None
    )
    totals = {
        name: value["total"]
        for name, value in results.items()
        if name == "AP" or name.startswith("PCK@")
    }
    joints = {i: p.keypoints_xy_image for i, p in collector.gather().items()}
    return totals, joints


if __name__ == "__main__":
    main()
