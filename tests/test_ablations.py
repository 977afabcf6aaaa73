"""Rows are comparable; the runner keeps, continues and reports; the table is right."""

import csv
import json
import signal
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from configs import ablations as rows_file
from tdpose_jax import ablation_table, ablations, setup_run, steps
from tdpose_jax.ablation_table import Row, RunResult
from tdpose_jax.model_cost import model_cost
from tdpose_jax.run_folder import flatten_config, read_metrics
from tdpose_jax.train_state import init_state
from tests.models.tiny import PatchBackbone
from tests.test_configs import batch_shapes, get_config

CONFIG = Path(rows_file.__file__)


# --- Rows ---------------------------------------------------------------------------


def trained_shapes(row):
    """Shapes of a row's trained parameters, after one training step of its shapes."""
    config = rows_file.get_config(row)
    parts = setup_run.make_parts(config, 100.0, axis_name=None)
    # The demo's HRNet is checked elsewhere; half of the time would go into it.
    model = parts.model.clone(backbone=PatchBackbone((64, 16, 16, 16)))
    optimizers = parts.optimizer, parts.auxiliary_optimizer
    frames = 2 * config.data.window_delta + 1
    state = jax.eval_shape(
        lambda: init_state(model, parts.auxiliary, *optimizers, frames, 0)
    )
    step = steps.make_train_step(model, parts.auxiliary, *optimizers, config.loss, None)
    new_state, metrics = jax.eval_shape(step, state, batch_shapes(config, 2))
    assert metrics["loss_model"].shape == ()
    shapes = jax.tree.map(jnp.shape, new_state)
    assert shapes == jax.tree.map(jnp.shape, state)
    return shapes.params


@pytest.fixture(scope="module")
def head_of_full_row():
    return head(trained_shapes("tdmi"))


def head(params):
    parts = ("aggregate", "pose_head")
    return {name: params[name] for name in params if name.startswith(parts)}


@pytest.mark.parametrize("row", [r for r in rows_file.ROWS if r != "delta2"])
def test_every_row_trains_with_the_head_of_the_full_row(row, head_of_full_row):
    """TDMI-ST's first block reads one more feature, which is what it is."""
    own = head(trained_shapes(row))
    if row == "tdmi_st":
        del own["aggregate.0"]
        assert own.items() <= head_of_full_row.items()
    else:
        assert own == head_of_full_row


def test_rows_differ_in_the_part_they_are_named_after_and_in_nothing_else():
    full = flatten_config(rows_file.get_config("tdmi"))
    may_differ = {
        "data.root",  # the same videos with wider windows
        "data.window_delta",
        "model.difference_stages",
        "model.spatio_temporal",
        "model.spatio_temporal_blocks",
        "model.cascade",
        "model.deformable",
        "model.disentangle",
        "loss.mi_estimator",
        "loss.sufficiency_weight",
    }
    for row in rows_file.ROWS:
        flat = flatten_config(rows_file.get_config(row))
        changed = {name for name in full if flat[name] != full[name]}
        assert changed <= may_differ, row
        assert changed or row in ("tdmi", "delta2"), row


def test_an_unknown_row_lists_the_choices():
    with pytest.raises(ValueError, match="single_frame, .*, tdmi_st"):
        rows_file.get_config("rdn")


def test_cost_of_the_published_network():
    """HRNet-W48 at 384 x 288: 63.6 M parameters, 32.9 G multiply-adds (Sun 2019)."""
    config = get_config("posetrack17", None).unlock()
    config.model.backbone_only, config.model.freeze_backbone = True, False
    millions, gflops = model_cost(config)
    assert millions == pytest.approx(63.6, abs=0.05)
    # The rest is normalisation, activations and sums.
    assert 2 * 32.9 < gflops < 1.05 * 2 * 32.9


# --- Runner -------------------------------------------------------------------------

# In main.py's place: folder, config and exit code are its arguments.
PROGRAM = """
import json, pathlib, signal, sys, time
folder, config, code = pathlib.Path(sys.argv[1]), json.loads(sys.argv[2]), sys.argv[3]
signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
(folder / "config.json").write_text(json.dumps(config))
print("step 1/2  loss 0.5", flush=True)
if code == "wait":
    time.sleep(60)
if code == "0":
    results = {"step": config["train.num_steps"], "AP": {"total": 50.0 + config["seed"]}}
    (folder / "results.json").write_text(json.dumps(results))
    lines = ["commit abc", "devices 1 x cpu", "machine x86_64, 2 cores"]
    (folder / "environment.txt").write_text("\\n".join(lines))
sys.exit(int(code))
"""


@pytest.fixture
def program(tmp_path):
    path = tmp_path / "program.py"
    path.write_text(PROGRAM)
    return path


def make_runs(folder, codes):
    """Runs row0, row1, ... that end with `codes`."""
    runs = []
    for i, code in enumerate(codes):
        config = {"train.num_steps": 2, "seed": 0, "eval.num_pictures": 0}
        target = folder / f"row{i}" / "seed0"
        arguments = [str(target), json.dumps(config), str(code)]
        runs.append(ablations.Run(f"row{i}", 0, target, config, arguments))
    return runs


def test_finished_runs_are_kept_and_the_others_made(program, tmp_path):
    runs, said = make_runs(tmp_path, (0, 0)), []
    runner = ablations.Runner(program, said.append)
    assert ablations.train_all(runs[:1], runner, False, said.append) == 0
    said.clear()
    assert ablations.train_all(runs, runner, False, said.append) == 0
    assert said[0] == "1 of 2 runs are finished already"
    assert len(said) == 2 and said[1].startswith("[1/1] row1 0: step 1/2  loss 0.5")
    assert said[1].endswith("left)")  # the first run has shown how long one takes
    assert "loss 0.5" in (runs[1].folder / "log.txt").read_text()


def test_a_failed_run_is_named_and_ends_the_command_unless_told_otherwise(
    program, tmp_path
):
    runs, said = make_runs(tmp_path, (3, 0)), []
    runner = ablations.Runner(program, said.append)
    assert ablations.train_all(runs, runner, False, said.append) == 1
    assert "row0 seed 0 ended with exit code 3" in said[-1] and "log.txt" in said[-1]
    assert not runs[1].is_finished()
    assert ablations.train_all(runs, runner, True, said.append) == 1
    assert runs[1].is_finished()


def test_a_stop_lets_the_current_run_save_and_begins_no_other(program, tmp_path):
    runs = make_runs(tmp_path, ("wait", 0))
    runner = ablations.Runner(program, lambda line: runner.stop(signal.SIGTERM, None))
    said = []
    assert ablations.train_all(runs, runner, True, said.append) == 75
    assert "goes on from here" in said[-1]
    assert not runs[1].folder.exists()


def test_an_unfinished_run_is_not_taken_for_a_finished_one(program, tmp_path):
    (run,) = make_runs(tmp_path, (0,))
    ablations.train_all([run], ablations.Runner(program), False)
    (run.folder / "results.json").write_text('{"step": 1, "AP": {"total": 50}}')
    assert not run.is_finished()


def test_a_run_evaluated_another_way_is_evaluated_again(program, tmp_path):
    (run,) = make_runs(tmp_path, (0,))
    ablations.train_all([run], ablations.Runner(program), False)
    path = run.folder / "results.json"
    results = json.loads(path.read_text())
    path.write_text(json.dumps(results | {"evaluated_with": ["eval.flip_test: True"]}))
    assert not run.is_finished()


def test_a_folder_of_another_run_is_refused(program, tmp_path):
    (run,) = make_runs(tmp_path, (0,))
    ablations.train_all([run], ablations.Runner(program), False)
    run.config["eval.num_pictures"] = 8  # pictures are no part of a result
    assert run.is_finished()
    run.config["train.num_steps"] = 5
    with pytest.raises(ValueError, match="num_steps is 2 there and 5 here"):
        run.is_finished()


def test_plan():
    set_ = ["train.num_steps=7", "model.difference_blocks=(1,1,1,2)"]
    module = ablations.load_config_file(CONFIG)
    configs = {row: ablations.row_config(module, row, set_) for row in ("rdm", "tdmi")}
    runs = ablations.plan_runs(CONFIG, configs, [0, 4], set_, Path("runs/x"))
    order = [(run.row, run.seed) for run in runs]
    assert order == [("rdm", 0), ("tdmi", 0), ("rdm", 4), ("tdmi", 4)]
    assert runs[2].folder == Path("runs/x/rdm/seed4")
    assert runs[2].arguments == [
        f"--config={CONFIG}:rdm",
        "--workdir=runs/x/rdm/seed4",
        "--config.train.num_steps=7",
        "--config.model.difference_blocks=(1,1,1,2)",
        "--config.seed=4",
    ]
    assert runs[2].config["train.num_steps"] == 7 and runs[2].config["seed"] == 4
    assert runs[2].config["model.difference_blocks"] == [1, 1, 1, 2]
    hashes = [ablations.config_hash(run.config) for run in runs]
    assert hashes[0] == hashes[2] != hashes[1]


@pytest.mark.parametrize(
    "override,message",
    [
        ("train.num_step=7", "'train.num_step' is no field"),
        ("train.num_steps", "'train.num_steps' has no value"),
        ("train.num_steps=many", "must be like 250"),
        ("train.num_steps=2.5", "must be like 250"),
        ("train.num_steps=0", "--set train.num_steps=N"),
    ],
)
def test_bad_overrides_are_named(override, message):
    module = ablations.load_config_file(CONFIG)
    with pytest.raises(ValueError, match=message):
        ablations.row_config(module, "tdmi", [override])


def test_rows_and_what_they_are_compared_with():
    found = ablations.parse_rows("a,b,c,d@b,e")
    assert found == {"a": "", "b": "a", "c": "b", "d": "b", "e": "d"}
    for text, message in (
        ("a,b,a", "a is there twice"),
        ("a,b@c", "compared with c, which is no row"),
        ("", "at least one"),
    ):
        with pytest.raises(ValueError, match=message):
            ablations.parse_rows(text)


# --- Table --------------------------------------------------------------------------


def test_interval_by_hand():
    """Differences 1, 2, 3: mean 2, s = 1, t(0.975, 2) = 4.303, half width 2.484."""
    found = ablation_table.paired_interval([1.0, 2.0, 3.0])
    assert found == pytest.approx((2.0, -0.4841, 4.4841), abs=1e-4)
    mean, low, high = ablation_table.paired_interval([1.5])
    assert mean == 1.5 and low != low and high != high


def result(row, seed, value, commit="abc"):
    others = {"Wrist": value - 20}
    return RunResult(row, seed, value, others, 250, commit, "1 x cpu (x86_64, 2 cores)")


ROWS = [
    Row("single", "", "c.py:single", "aaaa0000", 0.0147, 0.122),
    Row("full", "single", "c.py:full", "bbbb1111", 0.1774, 0.774),
    Row("plain", "full", "c.py:plain", "cccc2222", 0.1148, 0.673),
]
RESULTS = [
    result("single", 0, 60.0),
    result("single", 1, 64.0),
    result("full", 0, 61.0),
    result("full", 1, 66.0),
    result("full", 2, 99.0, "def"),  # without a partner: in the mean, in no difference
]


def test_summary_pairs_runs_by_seed():
    table = ablation_table.summarise(ROWS, RESULTS, "AP.total")
    assert [line["row"] for line in table] == ["single", "full"]
    single, full = table
    assert (single["n"], single["mean"]) == (2, 62.0)
    assert single["std"] == pytest.approx(2.8284, abs=1e-4)
    assert single["diff_to_previous"] != single["diff_to_previous"]
    assert (full["n"], full["seeds"], full["commit"]) == (3, "0 1 2", "abc; def")
    assert full["diff_to_previous"] == 1.5
    # s of (1, 2) is 0.7071, t(0.975, 1) = 12.706: half width 6.353.
    assert full["ci_low"] == pytest.approx(1.5 - 6.3531, abs=1e-3)


def test_a_row_can_only_be_compared_with_a_row_of_the_table():
    with pytest.raises(ValueError, match="full is compared with single, .* has full"):
        ablation_table.summarise(ROWS[1:2], RESULTS[2:], "AP.total")


def test_files(tmp_path):
    paths = ablation_table.write_tables(
        tmp_path / "a" / "t.csv", ROWS, RESULTS, "AP.total"
    )
    assert [p.name for p in paths] == ["t.csv", "t_runs.csv", "t.md", "t.png"]
    with paths[0].open() as file:
        lines = list(csv.DictReader(file))
    assert lines[1]["diff_to_previous"] == "1.5" and lines[0]["ci_low"] == ""
    wanted = {"commit", "config", "config_hash", "seeds", "device", "params_millions"}
    assert wanted <= lines[0].keys()
    with paths[1].open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 5 and lines[4]["Wrist"] == "79"
    text = paths[2].read_text()
    assert "| full | 3 | 75.33 | 20.65 | single | +1.50 | -4.85 to +7.85 |" in text
    assert "Commit abc; def" in text and "c.py:full bbbb1111" in text
    assert paths[3].read_bytes().startswith(b"\x89PNG")


def test_numbers_are_found_by_their_path(tmp_path):
    results = {"step": 9, "PCK@0.05": {"wrist": 40.0, "total": 61.5}, "PCK@0.2": {}}
    (tmp_path / "results.json").write_text(json.dumps(results))
    lines = ["commit 1f2e-dirty", "devices 8 x TPU v4", "machine x86_64, 96 cores"]
    (tmp_path / "environment.txt").write_text("\n".join(lines) + "\n")
    read = ablation_table.read_result(tmp_path, "tdmi", 3, "PCK@0.05.total")
    assert (read.value, read.others, read.steps) == (61.5, {"wrist": 40.0}, 9)
    assert (read.commit, read.device) == ("1f2e-dirty", "8 x TPU v4 (x86_64, 96 cores)")
    with pytest.raises(ValueError, match="AP.total.* choose one of PCK@0.05.total"):
        ablation_table.read_result(tmp_path, "tdmi", 3, "AP.total")
    (tmp_path / "other.json").write_text('{"PCKh@0.5": {"spoilt": 66.0}}')
    place = (tmp_path, "tdmi", 3, "PCKh@0.5.spoilt")
    read = ablation_table.read_result(*place, "other.json")
    assert (read.value, read.steps) == (66.0, 9)
    with pytest.raises(ValueError, match="--results=none.json: .* does not exist"):
        ablation_table.read_result(*place, "none.json")


# --- All of it ----------------------------------------------------------------------


@pytest.mark.slow
def test_two_rows_from_the_command_to_the_table(tmp_path, capsys):
    """Real runs; asked for again, they are kept and the table is the same."""
    from tests.stress import make_data

    data = make_data(tmp_path)
    tiny = Path(__file__).with_name("tiny_rows.py")
    arguments = [
        f"--config={tiny}",
        "--rows=single_frame,tdmi",
        "--seeds=0",
        f"--output={tmp_path / 'runs'}",
        f"--table={tmp_path / 'table.csv'}",
        f"--set=data.root={data}",
        "--set=train.log_gradient_norms=True",
        "--set=train.log_every_steps=2",
    ]
    handlers = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        assert ablations.main(arguments) == 0
        first = (tmp_path / "table.csv").read_text()
        assert ablations.main(arguments) == 0
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    assert "2 of 2 runs are finished already" in capsys.readouterr().out
    assert (tmp_path / "table.csv").read_text() == first
    lines = list(csv.DictReader(first.splitlines()))
    assert [line["row"] for line in lines] == ["single_frame", "tdmi"]
    assert all(0 <= float(line["mean"]) <= 100 for line in lines)
    assert float(lines[0]["gflops"]) < float(lines[1]["gflops"])
    logged = read_metrics(tmp_path / "runs" / "tdmi" / "seed0")
    logged = [line for line in logged if "loss_model" in line]
    assert [line["step"] for line in logged] == [2, 3]
    assert all(line["gradient_norm_mi_lost_keyframe"] >= 0 for line in logged)
