"""What a trained run learned about motion: pictures, gates, and what the parts share.

    python -m tdpose_jax.learned runs/ablations/{rdm,rdm_mi,tdmi}/seed0 \\
        --clips=4 --table=results/information_demo.csv

Writes into RUN/learned: `gates.png` (the useful and the noisy gate of every channel),
one page per clip (frames, motion over the crop, where the deformable convolutions look),
and `information.json` (three estimates of I(M_u; M_n) on pooled features of the whole
split; see `information_check`), which are also the lines of the table.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
from jaxtyping import Float

from tdpose_jax import heatmaps as hm
from tdpose_jax import setup_run, steps
from tdpose_jax.ablation_table import read_environment, write_csv
from tdpose_jax.checkpoint import load_variables
from tdpose_jax.information_check import check_information
from tdpose_jax.models.factory import make_model
from tdpose_jax.models.tdmi import TDMI
from tdpose_jax.run_folder import unflatten_config, write_json
from tdpose_jax.shapes import PoseBatch, decode_sample_ids
from tdpose_jax.skeleton import get_skeleton
from tdpose_jax.visualize_motion import save_gate_picture, save_motion_page

MOTION = ("motion", "motion_useful", "motion_noisy")


@dataclasses.dataclass
class Learned:
    """What the model makes of a split, people in the order of person and time.

    Attributes:
      pooled: "motion_useful" and "motion_noisy" -> [N, C] spatial means.
      gates: "useful_gate" and "noisy_gate" -> [N, C].
      clips: of the chosen people; arguments of `save_motion_page`.
    """

    pooled: dict[str, Float[np.ndarray, "N C"]]
    gates: dict[str, Float[np.ndarray, "N C"]]
    clips: dict[str, dict[str, Any]]


def look(model: TDMI, variables: dict, batch: PoseBatch) -> dict[str, jax.Array]:
    """One batch -> everything the pictures and the estimates need."""
    heatmaps, out = steps.forward(model, variables, batch)
    xy_heatmap, _ = hm.decode_heatmaps(heatmaps)
    seen = {"predicted_xy_crop": hm.heatmap_to_crop(xy_heatmap)}
    for name, value in out.items():
        value = jnp.asarray(value, jnp.float32)
        if name.endswith("_gate"):
            seen[name] = value[:, 0, 0]
        elif name.startswith(("sampling_offsets_", "modulation_")):
            seen[name] = value
        elif name.startswith("difference_") or name == "motion":
            seen[f"map/{name}"] = jnp.abs(value).mean(-1)
        elif name in ("motion_useful", "motion_noisy"):
            seen[f"map/{name}"] = jnp.abs(value).mean(-1)
            seen[f"pooled/{name}"] = value.mean((1, 2))
    return seen


def examine(
    model: TDMI, variables: dict, batches: Iterable[PoseBatch], clips: Sequence[int]
) -> Learned:
    """Runs the model over finite batches.

    Args:
      clips: numbers of the examples to keep whole, in the order of the batches.
    """
    run = jax.jit(lambda variables, batch: look(model, variables, batch))
    rows: dict[str, list] = {}
    kept, order, count = {}, [], 0
    for batch in batches:
        seen = run(variables, batch)
        real = np.flatnonzero(batch.example_is_real)
        names = decode_sample_ids(batch.sample_id[real])
        for name, value in seen.items():
            if name.startswith("pooled/") or name.endswith("_gate"):
                rows.setdefault(name, []).append(np.asarray(value)[real])
        for row, sample_id in zip(real, names, strict=True):
            if count in clips:
                example = {name: np.asarray(value[row]) for name, value in seen.items()}
                kept[sample_id] = _page(batch.frames[row], example)
            sequence, frame, person = sample_id.rsplit("/", 2)
            order.append((sequence, person, int(frame)))
            count += 1
    rank = sorted(range(count), key=order.__getitem__)
    joined = {name: np.concatenate(parts)[rank] for name, parts in rows.items()}
    return Learned(
        pooled={n[7:]: v for n, v in joined.items() if n.startswith("pooled/")},
        gates={n: v for n, v in joined.items() if n.endswith("_gate")},
        clips=kept,
    )


def _page(frames: np.ndarray, example: dict[str, np.ndarray]) -> dict[str, Any]:
    stages = [int(n[-1]) for n in example if n.startswith("sampling_offsets_")]
    return {
        "frames": frames,
        "predicted_xy_crop": example["predicted_xy_crop"],
        "maps": {
            name.replace("_", " "): example[f"map/{name}"]
            for name in (*(f"difference_{s}" for s in (1, 2, 3, 4)), *MOTION)
            if f"map/{name}" in example
        },
        "sampling": {
            s: (example[f"sampling_offsets_{s}"], example[f"modulation_{s}"])
            for s in stages
        },
    }


def read_config(workdir: Path) -> ml_collections.ConfigDict:
    """The config of a run.

    Raises:
      ValueError: if `workdir` is no run folder, or the run has no temporal differences.
    """
    path = workdir / "config.json"
    if not path.is_file():
        raise ValueError(f"{workdir}: not a run folder, it has no config.json")
    config = unflatten_config(json.loads(path.read_text()))
    if not config.model.difference_stages or config.model.backbone_only:
        raise ValueError(
            f"{workdir}: this run has no motion to look at "
            "(model.difference_stages is empty, or model.backbone_only is True)"
        )
    return config


def write_findings(
    learned: Learned, config: ml_collections.ConfigDict, folder: Path, title: str
) -> dict[str, float]:
    """Writes pictures and information.json into `folder`; returns the latter.

    It is empty where motion is not split into useful and noisy.
    """
    skeleton = get_skeleton(config.data.skeleton)
    for sample_id, page in learned.clips.items():
        save_motion_page(
            folder / f"{sample_id.replace('/', '_')}.png",
            **page,
            deform_dilation=config.model.deform_dilation,
            skeleton=skeleton,
            title=f"{title}: {sample_id}",
        )
    information = {}
    if learned.gates:
        save_gate_picture(
            folder / "gates.png",
            learned.gates["useful_gate"],
            learned.gates["noisy_gate"],
            title,
        )
        information = check_information(
            learned.pooled["motion_useful"], learned.pooled["motion_noisy"]
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "information.json", information)
    return information


def examine_run(run: Path, clips: int, split: str | None, checkpoint: str) -> dict:
    """Examines one run folder, writes its `learned/`, returns a line of the table.

    Args:
      split: None for the run's evaluation split.

    Raises:
      ValueError, OSError: if the run, its checkpoint or its data cannot be used.
    """
    # A main program may read data, a module of the package may not.
    from data_pipelines.input_pipeline import make_eval_iterator

    config = read_config(run)
    variables, step = load_variables(run, checkpoint)
    split = split or config.data.eval_split
    batches = make_eval_iterator(config.data, split, config.eval.batch_size, 0, 1)
    model = make_model(config.model)
    chosen = np.linspace(0, batches.num_examples - 1, clips).astype(int)
    learned = examine(model, variables, batches, chosen.tolist())
    title = f"{run} at step {step}, {split}"
    information = write_findings(learned, config, run / "learned", title)
    commit, device = read_environment(run)
    source = {"split": split, "step": step, "seed": config.seed}
    source |= {"commit": commit, "device": device}
    return {"run": str(run)} | information | source


def main(arguments: Sequence[str] | None = None) -> None:
    """The command; see the module's docstring."""
    parser = argparse.ArgumentParser(
        prog="python -m tdpose_jax.learned",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, help="run folders")
    parser.add_argument("--clips", type=int, default=4, help="pictured of each run")
    parser.add_argument("--split", help="instead of the run's evaluation split")
    parser.add_argument("--checkpoint", default="best", help="best or latest")
    parser.add_argument("--table", type=Path, help="<name>.csv, a line per run")
    flags = parser.parse_args(arguments)
    setup_run.enable_compilation_cache()
    lines = []
    try:
        for run in flags.runs:
            line = examine_run(run, flags.clips, flags.split, flags.checkpoint)
            lines.append(line)
            shown = (f"{k} {v:.4g}" for k, v in line.items() if isinstance(v, float))
            print(f"{run}: {', '.join(shown)}; pictures: {run / 'learned'}", flush=True)
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    if flags.table:
        write_csv(flags.table, lines)


if __name__ == "__main__":
    main()
