"""Real video from disk to the printed table, through the commands a user types."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.real_data import REAL, needs_real

ROOT = Path(__file__).parents[1]
# The architecture of the configs, small enough for a test.
TINY = [
    f"--config.model.hrnet.{field}={value}"
    for field, value in {
        "width": 8,
        "stem_width": 8,
        "stage1_blocks": 1,
        "stage_modules": "(1,1,1)",
        "branch_blocks": 1,
    }.items()
] + [
    "--config.model.channels=8",
    "--config.model.offset_groups=2",
    "--config.model.difference_blocks=(1,1,1,1)",
    "--config.model.aggregate_blocks=1",
    "--config.data.crop_size_hw=(64,64)",
    "--config.eval.num_pictures=2",
]


def run(*command, code=0):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env=os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2"},
    )
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout + done.stderr


def build(dataset, source, output):
    command = ["-m", "data_pipelines.build", f"--dataset={dataset}"]
    run(*command, f"--source={source}", f"--output={output}")
    return output


@pytest.fixture(scope="module")
def posetrack17(tmp_path_factory):
    output = tmp_path_factory.mktemp("built") / "posetrack17"
    return build("posetrack17", REAL / "posetrack17", output)


def few_jhmdb_clips(folder, wanted=(("clap", 3), ("wave", 3))):
    """The official layout with a few of its clips, by links."""
    source = REAL / "jhmdb"
    for action, count in wanted:
        lines = (
            (source / "splits" / f"{action}_test_split1.txt").read_text().split("\n")
        )
        listed = [line.split() for line in lines if line.strip()]
        picked = [x for x in listed if x[1] == "1"][: count - 1]
        picked += [x for x in listed if x[1] == "2"][:1]
        (folder / "splits").mkdir(parents=True, exist_ok=True)
        (folder / "splits" / f"{action}_test_split1.txt").write_text(
            "".join(f"{name} {part}\n" for name, part in picked)
        )
        for name, _ in picked:
            clip = Path(name).stem
            for relative in (
                Path("ReCompress_Videos") / action / f"{clip}.avi",
                Path("joint_positions") / action / clip,
            ):
                (folder / relative).parent.mkdir(parents=True, exist_ok=True)
                (folder / relative).symlink_to(source / relative)
    return folder


@needs_real
def test_jhmdb_trains_and_evaluates(tmp_path):
    source = few_jhmdb_clips(tmp_path / "jhmdb")
    root = build("jhmdb", source, tmp_path / "built")
    workdir = tmp_path / "run"
    text = run(
        "main.py",
        "--config=configs/jhmdb.py",
        f"--workdir={workdir}",
        f"--config.data.root={root}",
        "--config.train.num_steps=4",
        "--config.train.log_every_steps=2",
        "--config.train.batch_size=4",
        *TINY,
    )
    assert "step 4/4" in text and "clips/s" in text and "PCK@0.2" in text
    results = json.loads((workdir / "results.json").read_text())
    assert 0 <= results["PCK@0.05"]["total"] <= results["PCK@0.2"]["total"] <= 100
    assert set(results["PCK@0.2"]) >= {"neck", "left_ankle", "total"}
    logged = [json.loads(x) for x in (workdir / "metrics.jsonl").open()]
    assert [x["step"] for x in logged if "heatmap" in x] == [2, 4]
    assert len(list((workdir / "pictures").glob("*.png"))) == 2
    assert (workdir / "environment.txt").read_text().startswith("commit ")
    assert list((workdir / "tensorboard").glob("events.*"))


@needs_real
def test_posetrack17_prints_the_official_table(posetrack17, tmp_path):
    workdir = tmp_path / "run"
    text = run(
        "main.py",
        "--config=configs/posetrack17.py",
        f"--workdir={workdir}",
        "--mode=eval",
        f"--config.data.root={posetrack17}",
        *TINY,
    )
    assert "Shoulder" in text and "total" in text
    results = json.loads((workdir / "results.json").read_text())
    assert results["num_persons"] == 84 and results["num_frames"] == 21
    groups = ["Head", "Shoulder", "Elbow", "Wrist", "Hip", "Knee", "Ankle", "total"]
    assert list(results["AP"]) == groups
    # The prediction files, scored by the separate command, give the same numbers.
    scores = tmp_path / "scores.json"
    run(
        "-m",
        "tdpose_jax.metrics.score",
        f"--ground_truth={posetrack17}/ground_truth/val",
        f"--predictions={workdir}/predictions",
        "--protocol=poseval",
        f"--output={scores}",
    )
    assert json.loads(scores.read_text())["AP"] == results["per_joint"]["AP"]


@pytest.mark.parametrize(
    "arguments,message",
    [
        (["--config.data.windw_delta=3"], "windw_delta"),
        (
            ["--config.data.root=data/nowhere"],
            "no data set in .*nowhere.*manifest.json.*python -m data_pipelines.build",
        ),
        (["--config.data.skeleton=mpii"], "unknown skeleton 'mpii'; choose one of"),
    ],
    ids=["misspelt", "no data", "unknown joints"],
)
def test_mistakes_are_one_line(arguments, message, tmp_path):
    import re

    text = run(
        "main.py",
        "--config=configs/posetrack17.py",
        f"--workdir={tmp_path / 'run'}",
        *arguments,
        code=1,
    )
    assert re.search(message, text), text
    assert not (tmp_path / "run").exists()
