"""Out to PyTorch and ONNX: bit-identical weights, equal models, no file left by failure."""

import json
import os
import shutil
import subprocess
import sys
import types

import ml_collections
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from configs import default, small
from data_pipelines.build import build
from tdpose_jax.checkpoint import Checkpoints
from tdpose_jax.interop import export_torch, parity
from tdpose_jax.interop.tdmi_names import (
    export_tdmi,
    flax_shapes,
    import_tdmi,
    read_fields,
    to_torch,
    torch_fields,
)
from tdpose_jax.interop.weights_file import WeightsError, flatten, unflatten
from tdpose_jax.run_folder import open_run_folder
from tdpose_jax.train_state import TrainState
from tests.data_pipelines import small_sets

torch = pytest.importorskip("torch")
torch.set_num_threads(1)


def tiny_config(**model) -> ml_collections.ConfigDict:
    config = default.get_config()
    small.shrink(config)
    config.data.crop_size_hw = (64, 32)
    config.data.window_delta = 1
    config.model.hrnet.width = 4
    config.model.hrnet.stem_width = 4
    config.model.hrnet.stage1_blocks = 1
    config.model.hrnet.branch_blocks = 1
    config.model.channels = 8
    config.model.offset_groups = 2
    config.model.difference_stages = (1, 4)
    config.model.aggregate_blocks = 1
    config.model.update(model)
    return config


# Every choice of the `model` section that changes which tensors there are.
ROWS = {
    "full": {"difference_stages": (1, 2, 3, 4), "difference_blocks": (3, 3, 2, 2)},
    "backbone_only": {"backbone_only": True},
    "single_frame": {"difference_stages": ()},
    "stage_4_only": {"difference_stages": (4,)},
    "no_cascade": {"cascade": False},
    "plain_convolution": {"deformable": False},
    "no_disentangle": {"disentangle": False},
    "spatio_temporal": {"spatio_temporal": True},
    "spatio_temporal_only": {"spatio_temporal": True, "difference_stages": ()},
    "tinypose": {"backbone": "tinypose"},
}


def random_variables(fields, seed=0):
    """As after training: gains near 1, positive variances, offsets of a few pixels."""
    rng = np.random.default_rng(seed)
    flat = {}
    for name, shape in flax_shapes(fields).items():
        if name.endswith((".scale", ".var")):
            value = rng.uniform(0.5, 1.5, shape)
        else:
            value = rng.normal(size=shape) * np.sqrt(2 / max(np.prod(shape[:-1]), 8))
        if "sampling_offsets" in name and name.endswith("kernel"):
            value *= 0.3
        flat[name] = value.astype(np.float32)
    return {"batch_stats": {}, **unflatten(flat)}


def make_run(workdir, config):
    """A run folder as training leaves it, without training."""
    variables = random_variables(torch_fields(config))
    params = dict(variables["params"])
    frozen = {"backbone": params.pop("backbone")}
    state = TrainState(
        step=np.array(7, np.int32),
        params=params,
        frozen_params=frozen,
        batch_stats=variables["batch_stats"],
        auxiliary_params={},
        opt_state={},
        auxiliary_opt_state={},
    )
    open_run_folder(workdir, config)
    checkpoints = Checkpoints(workdir)
    checkpoints.save(state, {})
    checkpoints.close()
    return variables


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(workdir, the variables in its checkpoint); its data set exists."""
    root = tmp_path_factory.mktemp("run")
    source = small_sets.make_posetrack18(root / "source", {"val": ("c",)}, 3)
    build(small_sets.pose_options(source, root / "data", boxes=None))
    config = tiny_config()
    config.data.root = str(root / "data")
    return root / "workdir", make_run(root / "workdir", config)


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """(folder with the three files, what the command printed)."""
    folder = tmp_path_factory.mktemp("exported") / "new"
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("builtins.print", lambda *words: lines.append(" ".join(words)))
        flags = [f"--workdir={run[0]}", f"--output={folder / 'model.safetensors'}"]
        export_torch.main(flags)
    return folder, lines


@pytest.fixture(scope="module")
def flax_run(run):
    """The Flax model of the run, compiled once: clips -> heatmaps."""
    fields = torch_fields(export_torch.read_config(run[0]))
    return export_torch.jax_model(fields, run[1])


def assert_same_bits(ours, theirs):
    ours, theirs = flatten(ours), flatten(theirs)
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype == np.float32
        assert theirs[name].shape == value.shape
        assert theirs[name].tobytes() == value.tobytes(), name


@pytest.mark.parametrize("row", ROWS)
def test_round_trip_is_bit_identical(row, tmp_path):
    from tdpose_jax.interop.torch_template import tdmi_torch

    fields = torch_fields(tiny_config(**ROWS[row]))
    variables = random_variables(fields)
    odd = variables["params"]["backbone"]["final_layer"]["bias"]
    odd[:4] = -0.0, 1e-42, np.nan, np.inf
    path = tmp_path / "model.safetensors"
    export_tdmi(path, variables, fields, {})
    net = tdmi_torch.load(path)  # strict: the same names and shapes
    assert_same_bits(variables, import_tdmi(path))
    assert read_fields(path) == fields

    # And through PyTorch's own saving of the loaded model.
    state = {k: v.numpy() for k, v in net.state_dict().items() if v.ndim}
    assert state.keys() == to_torch(variables).keys()
    save_file(state, tmp_path / "again.safetensors", {"model": json.dumps(fields)})
    assert_same_bits(variables, import_tdmi(tmp_path / "again.safetensors"))


def test_the_command_reports_parity(run, exported):
    folder, lines = exported
    assert sorted(os.listdir(folder)) == [
        "model.onnx",
        "model.safetensors",
        "tdmi_torch.py",
    ]
    assert [line.partition(":")[0] for line in lines] == [
        "PyTorch on 2 random crops",
        "ONNX on 2 random crops",
        "PyTorch on 2 real crops",
        "ONNX on 2 real crops",
        f"wrote {folder / 'model.safetensors'}; largest difference",
    ]
    words = lines[-1].split()
    heatmaps, joints = float(words[-4].strip(",")), float(words[-2])
    assert 0 < heatmaps and joints < parity.MAX_JOINT_PX
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        metadata = file.metadata()
    assert metadata["crop_size_hw"] == "[64, 32]" and metadata["step"] == "7"
    assert json.loads(metadata["keypoint_names"])[0] == "nose"
    assert_same_bits(run[1], import_tdmi(folder / "model.safetensors"))


WITHOUT_JAX = """
import sys
for name in ("jax", "jaxlib", "flax", "tdpose_jax", "numpy", "torchvision"):
    sys.modules[name] = None  # importing it is an ImportError
import torch, tdmi_torch
torch.set_num_threads(1)
model = tdmi_torch.load("model.safetensors").to("cpu", memory_format=torch.channels_last)
crops = torch.load("crops.pt")
with torch.inference_mode():
    heatmaps = model(tdmi_torch.normalize(crops))
torch.save(heatmaps, "heatmaps.pt")
"""


def test_exported_module_where_jax_cannot_be_imported(exported, flax_run, tmp_path):
    for name in ("model.safetensors", "tdmi_torch.py"):
        shutil.copy(exported[0] / name, tmp_path)
    clips = np.random.default_rng(3).integers(0, 256, (2, 3, 64, 32, 3), np.uint8)
    crops = torch.from_numpy(np.moveaxis(clips, -1, -3).copy()).float() / 255
    torch.save(crops, tmp_path / "crops.pt")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_JAX],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    theirs = torch.load(tmp_path / "heatmaps.pt").numpy()
    theirs = np.moveaxis(theirs, 1, -1)
    ours = parity.run(flax_run, clips)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-5 * np.abs(ours).max())
    onnx = export_torch.onnx_model(exported[0] / "model.onnx")(clips)
    np.testing.assert_allclose(ours, onnx, rtol=0, atol=2e-5 * np.abs(ours).max())


def test_backbone_loads_into_the_official_class(exported):
    from tdpose_jax.interop.torch_template import tdmi_torch

    path = exported[0] / "model.safetensors"
    tensors, _ = tdmi_torch.read_safetensors(path)
    tensors = {k[9:]: v for k, v in tensors.items() if k.startswith("backbone.")}
    # This class has the official names (test_import_weights), strict loading.
    hrnet = read_fields(path)["hrnet"]
    tdmi_torch.HRNet(**hrnet).load_state_dict(tensors, strict=True)


def test_onnx_of_samples_far_outside_and_on_the_border(tmp_path):
    from tdpose_jax.interop.torch_template import tdmi_torch

    torch.manual_seed(0)
    layer = tdmi_torch.ModulatedDeformConv(3, groups=3, dilation=3).eval()
    torch.nn.init.normal_(layer.sampling_offsets.weight, std=0.7)
    torch.nn.init.uniform_(layer.sampling_offsets.bias, -8, 8)
    x = torch.randn(4, 3, 9, 7)
    with torch.no_grad():
        expected = layer(x).numpy()
        offsets = layer.sampling_offsets(x)
    assert offsets.abs().max() > 15 and offsets.abs().min() < 0.01
    path = tmp_path / "layer.onnx"
    export_torch.save_onnx(
        torch.nn.Sequential(torch.nn.Flatten(0, 1), layer), path, (1, 9, 7, 3)
    )
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (maps,) = session.run(None, {"frames": x.numpy()[:, None]})
    np.testing.assert_allclose(maps, expected, atol=2e-5 * np.abs(expected).max())


def test_torchvision_is_used_when_present_but_not_for_onnx(monkeypatch):
    from tdpose_jax.interop.torch_template import tdmi_torch

    calls = []

    def deform_conv2d(x, offset, weight, *, padding, dilation, mask):
        calls.append((offset.shape, weight.shape, padding, dilation, mask.shape))
        return x

    stub = types.ModuleType("torchvision.ops")
    stub.deform_conv2d = deform_conv2d
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.ops", stub)
    module = export_torch._import_file(export_torch.TEMPLATE)
    layer = module.ModulatedDeformConv(8, groups=2, dilation=3)
    x = torch.randn(1, 8, 6, 6)
    assert layer(x) is x
    assert calls == [((1, 36, 6, 6), (8, 8, 3, 3), 3, 3, (1, 18, 6, 6))]
    monkeypatch.setattr(torch.onnx, "is_in_onnx_export", lambda: True)
    assert layer(x) is not x and len(calls) == 1
    assert tdmi_torch is not module


def fails(arguments, capsys) -> str:
    with pytest.raises(SystemExit) as exit_info:
        export_torch.main(arguments)
    message = exit_info.value.code
    assert message.startswith("error: ") and "\n" not in message
    capsys.readouterr()
    return message


def flags(workdir, output="out/model.safetensors"):
    return [f"--workdir={workdir}", f"--output={output}"]


def test_a_wrong_model_is_refused_and_nothing_is_left(
    run, flax_run, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(export_torch, "jax_model", lambda *_: flax_run)

    def slightly_wrong(variables):
        tensors = to_torch(variables)
        tensors["pose_head.bias"] = tensors["pose_head.bias"] + np.float32(0.1)
        return tensors

    monkeypatch.setattr("tdpose_jax.interop.tdmi_names.to_torch", slightly_wrong)
    message = fails(flags(run[0]), capsys)
    assert "PyTorch is not the model: heatmaps differ by 0.1 (peak " in message
    assert os.listdir() == []


def test_wrong_folders_and_outputs(run, exported, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(run[0], "other")
    config = json.loads(open("other/config.json").read())
    config["model.channels"] = 16
    open("other/config.json", "w").write(json.dumps(config))
    os.mkdir("empty")
    open("empty/config.json", "w").write("{}")
    os.mkdir("untrained")
    shutil.copy(run[0] / "config.json", "untrained")
    before = sorted(os.listdir())
    for workdir, expected in {
        "absent": "absent: not a run folder, config.json cannot be read",
        "empty": "empty: not a run folder, config.json cannot be read",
        "untrained": "no checkpoint in untrained: expected checkpoints/<step>",
        "other": "other: the checkpoint is not of the model in config.json, "
        "'batch_stats.aggregate.0.bn1.mean' is (8,) there and (16,) in the model",
    }.items():
        assert expected in fails(flags(workdir), capsys)
    assert "must end in .safetensors" in fails(flags(run[0], "out.pth"), capsys)
    taken = exported[0] / "model.safetensors"
    assert f"{taken}: already exists" in fails(flags(run[0], taken), capsys)
    open("tdmi_torch.py", "w").write("edited")
    message = fails(flags(run[0], "model.safetensors"), capsys)
    assert "tdmi_torch.py: exists and is not this version's" in message
    assert sorted(os.listdir()) == sorted([*before, "tdmi_torch.py"])


def test_without_the_data_set_or_the_packages(run, capsys, monkeypatch):
    config = export_torch.read_config(run[0])
    config.data.root = "nowhere"
    assert export_torch._real_clips(config) is None
    assert "not compared on real crops: " in capsys.readouterr().out
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    message = fails(flags(run[0]), capsys)
    assert "torch is not installed: pip install -r requirements-export.txt" in message


def test_files_that_are_no_exported_models(exported, tmp_path):
    path = tmp_path / "model.safetensors"
    fields = read_fields(exported[0] / "model.safetensors")
    tensors = to_torch(import_tdmi(exported[0] / "model.safetensors"))

    def refuses(message, tensors, metadata):
        save_file(tensors, path, metadata)
        with pytest.raises(WeightsError, match=message):
            import_tdmi(path)

    metadata = {"model": json.dumps(fields)}
    refuses("no model is described in its metadata", tensors, {})
    refuses("describes no model", tensors, {"model": "{"})
    refuses("describes no model .*'hrnet'", tensors, {"model": '{"window_delta": 1}'})
    odd = {"model": json.dumps({**fields, "colour": 1})}
    refuses("describes no model .*colour", tensors, odd)
    refuses("1 tensors have .*'x'", {**tensors, "x": np.zeros(1)}, metadata)
    wide = {**tensors, "pose_head.bias": np.zeros(3, np.float32)}
    refuses(r"'pose_head.bias' \(3,\) does not .*needs \(17,\)", wide, metadata)
    del tensors["backbone.bn1.weight"]
    refuses(
        "'backbone.bn1.weight' for 'params.backbone.bn1.scale' is missing",
        tensors,
        metadata,
    )
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(WeightsError, match="damaged"):
        import_tdmi(path)


def gaussians(*centres_xy, size_hw=(16, 12)):
    y, x = np.mgrid[: size_hw[0], : size_hw[1]]
    maps = [np.exp(-((x - cx) ** 2 + (y - cy) ** 2) / 4) for cx, cy in centres_xy]
    return np.stack(maps, -1)[None].astype(np.float32)


@pytest.mark.parametrize("decoder", ["quarter", "subpixel"])
def test_determined_joints(decoder):
    """One clear peak counts; ties, flat, negative and empty maps do not."""
    clear = gaussians((4.2, 7.3))
    tie = np.maximum(clear, gaussians((8.2, 11.3)))
    constant, zero = np.ones_like(clear), np.zeros_like(clear)
    symmetric = gaussians((4, 7))  # a quarter pixel to the left, or to the right?
    maps = np.concatenate([clear, tie, constant, zero, -1 - clear, symmetric], -1)
    found = parity.determined_joints(maps / 2, decoder)[0].tolist()
    assert found == [True, False, False, False, False, decoder == "subpixel"]


def test_differences_that_are_too_large():
    maps = gaussians((4.2, 7.3), (6.4, 3.2))
    same = parity.difference(maps, maps, "subpixel")
    assert (same.heatmap, same.joint_px, same.num_compared) == (0, 0, 2)
    same.check("a copy")
    moved = gaussians((4.201, 7.3), (6.4, 3.2))
    result = parity.difference(maps, moved, "subpixel")
    assert abs(result.joint_px - 0.004) < 1e-4
    with pytest.raises(WeightsError, match="X is not .*may differ by 0.0001 of the pe"):
        result.check("X")
    far = parity.Difference(0.0, 1.0, 0.011, 1, 1)
    with pytest.raises(WeightsError, match="joints by 0.011 px .*by 0.01 px"):
        far.check("X")
    nan = parity.Difference(float("nan"), float("nan"), 0.0, 1, 1)
    with pytest.raises(WeightsError, match="heatmaps may differ"):
        nan.check("X")
    constant = np.ones_like(maps)
    with pytest.raises(WeightsError, match="0 of 2 compared.; no heatmap has a peak"):
        parity.difference(constant, constant, "quarter").check("X")


def test_fields_are_all_of_the_model_section():
    """A new field of the config must reach the PyTorch class, or be for training."""
    from tdpose_jax.interop.torch_template import tdmi_torch

    config = tiny_config()
    tdmi_torch.TDMI(**torch_fields(config))
