"""PyTorch checkpoints in: every layout, every kind of wrong file, equal results."""

import collections
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tdpose_jax.interop.hrnet_names import hrnet_shapes, import_hrnet, torch_name
from tdpose_jax.interop.import_weights import import_weights, main
from tdpose_jax.interop.weights_file import (
    WeightsError,
    flatten,
    load_backbone,
    read_tensors,
    save_backbone,
    unflatten,
)
from tdpose_jax.models.hrnet import HRNet
from tdpose_jax.models.lite_hrnet import LiteHRNet
from tests.real_data import REAL, needs_real

torch = pytest.importorskip("torch")
torch.set_num_threads(1)

WIDTH, K = 4, 5


@pytest.fixture(scope="module")
def network():
    """A PyTorch HRNet whose BatchNorm has seen data and whose gains are not 1."""
    from tdpose_jax.interop.torch_template import tdmi_torch

    torch.manual_seed(0)
    net = tdmi_torch.HRNet(width=WIDTH, num_keypoints=K)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias, std=0.2)
    with torch.no_grad():
        for _ in range(5):  # moves the running statistics
            net(torch.randn(4, 3, 64, 64))
    return net.eval()


@pytest.fixture(scope="module")
def state(network):
    return {k: v.clone() for k, v in network.state_dict().items()}


@pytest.fixture(scope="module")
def expected(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("plain") / "net.pth"
    torch.save(state, path)
    return flatten(import_hrnet(read_tensors(path), WIDTH, "plain")[0])


def prefixed(state, prefix, head=None):
    """mmpose keeps the heatmap layer in a part of its own."""
    return {
        (head if head and k.startswith("final_layer") else prefix) + k: v
        for k, v in state.items()
    }


def training_checkpoint(state):
    """What the official trainer writes every epoch, numpy scalar and all."""
    return {
        "epoch": 3,
        "model": "pose_hrnet",
        "state_dict": prefixed(state, "module."),
        "perf": np.float64(0.7),
        "optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]},
    }


def mmpose_checkpoint(state):
    sigmas = {"dataset_meta": {"sigmas": np.ones(17, np.float32)}}
    tensors = prefixed(state, "backbone.", "head.")
    return {"meta": sigmas, "state_dict": collections.OrderedDict(tensors)}


LAYOUTS = {
    "data_parallel": lambda s: prefixed(s, "module."),
    "nested": lambda s: {"state_dict": s},
    "wrapped": lambda s: {"model": prefixed(s, "module.hrnet.")},
    "pose_estimator": lambda s: prefixed(s, "model.hrnet."),
    "training_checkpoint": training_checkpoint,
    "mmpose_0": lambda s: {"state_dict": prefixed(s, "backbone.", "keypoint_head.")},
    "mmpose_1": mmpose_checkpoint,
    "half": lambda s: {k: v.half() for k, v in s.items()},
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_give_the_same_variables(layout, state, expected, tmp_path):
    torch.save(LAYOUTS[layout](state), tmp_path / "net.pth")
    tensors = read_tensors(tmp_path / "net.pth")
    variables, num_keypoints, unused = import_hrnet(tensors, WIDTH, "net.pth")
    assert num_keypoints == K
    assert list(unused) == ["counters of BatchNorm"]
    flat = flatten(variables)
    assert flat.keys() == expected.keys()
    for name, value in flat.items():
        assert value.dtype == np.float32
        tolerance = 1e-3 if layout == "half" else 0
        np.testing.assert_allclose(
            value, expected[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def test_safetensors(state, expected, tmp_path):
    from safetensors.torch import save_file

    save_file(prefixed(state, "module."), tmp_path / "net.safetensors")
    tensors = read_tensors(tmp_path / "net.safetensors")
    flat = flatten(import_hrnet(tensors, WIDTH, "net")[0])
    assert all(np.array_equal(flat[name], expected[name]) for name in expected)


def test_timm_features(state, expected):
    """No heatmap layer, an ImageNet head, and stage 4's other outputs."""
    tensors = {k: v.numpy() for k, v in state.items() if "final_layer" not in k}
    extra = {
        "final_layer.0.weight": (2048, 1024, 1, 1),
        "final_layer.1.running_mean": (2048,),
        "incre_modules.0.0.conv1.weight": (32, WIDTH, 1, 1),
        "downsamp_modules.0.0.bias": (256,),
        "classifier.weight": (1000, 2048),
        "stage4.2.fuse_layers.1.2.0.weight": (2 * WIDTH, 4 * WIDTH, 1, 1),
    }
    tensors.update({k: np.broadcast_to(np.float32(0), v) for k, v in extra.items()})
    variables, num_keypoints, unused = import_hrnet(tensors, WIDTH, "timm")
    assert num_keypoints == 0
    assert sum(unused.values()) == len(extra) + sum(
        name.endswith("num_batches_tracked") for name in state
    )
    flat = flatten(variables)
    assert set(expected) - set(flat) == {
        "params.final_layer.kernel",
        "params.final_layer.bias",
    }
    # In a module that is not the last one, the same names are not superfluous.
    tensors["stage4.3.fuse_layers.0.9.0.weight"] = np.zeros(1)
    with pytest.raises(WeightsError, match="1 tensors have no place .*fuse_layers.0.9"):
        import_hrnet(tensors, WIDTH, "timm")


def test_stage_features_and_compare(network, state, tmp_path, capsys):
    x = torch.randn(2, 3, 96, 64)
    with torch.no_grad():
        features, heatmaps = network(x)
    torch.save(state, tmp_path / "net.pth")
    np.savez(tmp_path / "io.npz", x=x.numpy(), y=heatmaps.numpy())
    main(
        [
            f"--source={tmp_path / 'net.pth'}",
            f"--arch=hrnet_w{WIDTH}",
            f"--output={tmp_path / 'new' / 'out'}",
            f"--compare={tmp_path / 'io.npz'}",
        ]
    )
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("largest difference ")
    assert 0 < float(last.split()[-1]) < 1e-4 * heatmaps.abs().max()

    folder = tmp_path / "new" / "out"
    arch = json.loads((folder / "arch.json").read_text())
    assert (arch["arch"], arch["width"], arch["num_keypoints"]) == ("hrnet_w4", 4, K)
    assert len(arch["source_sha256"]) == 64
    assert [p.name for p in folder.parent.iterdir()] == ["out"]  # no leftovers
    model = HRNet(width=WIDTH, num_keypoints=K)
    images = x.numpy().transpose(0, 2, 3, 1)
    ours, _ = model.apply(load_backbone(folder), images)
    for mine, theirs in zip(ours, features, strict=True):
        theirs = theirs.numpy().transpose(0, 2, 3, 1)
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(mine, theirs, rtol=0, atol=1e-5 * scale)


def test_runs_without_tensorflow_and_without_a_gpu(state, tmp_path):
    torch.save(state, tmp_path / "net.pth")
    code = (
        "import sys; sys.modules['tensorflow'] = None\n"
        "from tdpose_jax.interop.import_weights import main; main(sys.argv[1:])"
    )
    flags = ["--source=net.pth", f"--arch=hrnet_w{WIDTH}", "--output=out"]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, *flags],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(root)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "wrote out"


class Bomb:
    def __reduce__(self):
        return os.mkdir, ("exploded",)


def broken_files(state):
    """name -> (what to write, arch, what the one line must say)."""
    resnet = {"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.bias": torch.zeros(10)}
    less = {k: v for k, v in state.items() if k != "stage3.2.branches.1.0.bn2.bias"}
    double = {**state, **prefixed({"bn1.bias": state["bn1.bias"]}, "module.")}
    return {
        "wrong width": (
            state,
            "hrnet_w8",
            "'stage2.0.branches.0.0.bn1.running_mean' (4,) does not fit "
            "'batch_stats.stage2.0.branches.0.0.bn1.mean' of hrnet_w8, which needs (8,)",
        ),
        "another network": (
            resnet,
            "hrnet_w4",
            "tensors of hrnet_w4 are not in the file, the first is ",
        ),
        "one missing": (
            less,
            "hrnet_w4",
            "1 of the 1462 tensors of hrnet_w4 are not in the file, the first is "
            "'stage3.2.branches.1.0.bn2.bias' for "
            "'params.stage3.2.branches.1.0.bn2.bias'",
        ),
        "one too many": (
            {**state, "fc.bias": torch.zeros(2)},
            "hrnet_w4",
            "1 tensors have no place in hrnet_w4, the first is 'fc.bias'",
        ),
        "double": (double, "hrnet_w4", "'bn1.bias' and 'module.bn1.bias' are both"),
        "code": (
            {"state_dict": state, "hook": Bomb()},
            "hrnet_w4",
            "refused, it cannot be read without running code from it (posix.mkdir)",
        ),
        "no tensors": ({"epoch": 3}, "hrnet_w4", "holds no tensors"),
        "a list": ([state["bn1.bias"]], "hrnet_w4", "holds a list, no state_dict"),
        "unknown arch": (state, "resnet50", "--arch=resnet50: choose hrnet_w<width>"),
        "not tinypose": (
            state,
            "tinypose",
            "tensor 'Conv_0.weight' for stem/conv is missing",
        ),
    }


CASES = list(broken_files({"bn1.bias": torch.zeros(1)}))


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as exit_info:
        main(arguments)
    message = exit_info.value.code
    assert message.startswith("error: ") and "\n" not in message
    assert capsys.readouterr().out == ""
    return message


@pytest.mark.parametrize("case", CASES)
def test_wrong_files_leave_nothing(case, state, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content, arch, expected_message = broken_files(state)[case]
    torch.save(content, "net.pth")
    message = fails(["--source=net.pth", f"--arch={arch}", "--output=out"], capsys)
    assert expected_message in message
    assert os.listdir() == ["net.pth"]


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
def test_truncated_and_absent_files(suffix, state, tmp_path, capsys, monkeypatch):
    from safetensors.torch import save_file

    monkeypatch.chdir(tmp_path)
    name = f"net.{suffix}"
    arguments = [f"--source={name}", "--arch=hrnet_w4", "--output=out"]
    assert f"{name}: no such file" in fails(arguments, capsys)
    (torch.save if suffix == "pth" else save_file)(state, name)
    whole = open(name, "rb").read()
    for size in (0, 5, len(whole) // 2, len(whole) - 1):
        with open(name, "wb") as file:
            file.write(whole[:size])
        assert f"{name}: damaged" in fails(arguments, capsys)
    assert os.listdir() == [name]


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_pickle_bomb(protocol, tmp_path, capsys, monkeypatch):
    """Not even a PyTorch file: the first thing torch would do is unpickle it."""
    monkeypatch.chdir(tmp_path)
    with open("net.pth", "wb") as file:
        pickle.dump(Bomb(), file, protocol=protocol)
    message = fails(["--source=net.pth", "--arch=hrnet_w4", "--output=out"], capsys)
    assert "refused, it cannot be read without running code from it" in message
    assert ("posix.mkdir" if protocol == 2 else "operand 149") in message
    assert os.listdir() == ["net.pth"]


def test_wrong_comparisons_and_outputs(state, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(state, "net.pth")
    arguments = dict(source="net.pth", arch="hrnet_w4", output="out", compare="io.npz")
    with pytest.raises(WeightsError, match=r"--compare=io.npz: .*No such file"):
        import_weights(**arguments)
    np.savez("io.npz", x=np.zeros((1, 3, 64, 64)))
    with pytest.raises(WeightsError, match="--compare=io.npz: .*y is not a file"):
        import_weights(**arguments)
    np.savez("io.npz", x=np.zeros((1, 3, 60, 64)), y=np.zeros((1, K, 15, 16)))
    with pytest.raises(WeightsError, match="--compare=io.npz: .*multiples of 32"):
        import_weights(**arguments)
    headless = {k: v for k, v in state.items() if "final_layer" not in k}
    torch.save(headless, "headless.pth")
    with pytest.raises(WeightsError, match="source has no heatmap layer"):
        import_weights(**{**arguments, "source": "headless.pth"})
    os.mkdir("taken")
    open("taken/file", "w").close()
    with pytest.raises(WeightsError, match="taken: already exists"):
        import_weights(**{**arguments, "output": "taken"})
    assert sorted(os.listdir()) == ["headless.pth", "io.npz", "net.pth", "taken"]


def test_names_survive_flattening():
    """`unflatten` guesses the tree from dots and digits; the guess fits both nets."""
    zeros = jnp.zeros((1, 64, 64, 3))
    modules = (1, 2, 1)
    small = HRNet(WIDTH, stage1_blocks=2, stage_modules=modules, branch_blocks=2)
    for model in (small, LiteHRNet(stage_modules=modules)):
        tree = jax.eval_shape(model.init, jax.random.key(0), zeros)
        tree = jax.tree.map(lambda leaf: np.broadcast_to(0, leaf.shape), tree)
        again = unflatten(flatten(tree))
        assert jax.tree.map(np.shape, again) == jax.tree.map(np.shape, tree)


def test_official_names_are_those_of_the_pytorch_class(state):
    ours = {torch_name(name) for name in hrnet_shapes(WIDTH, K)}
    assert ours == {k for k in state if not k.endswith("num_batches_tracked")}


def test_load_backbone_says_what_is_wrong(tmp_path):
    with pytest.raises(WeightsError, match="not a backbone folder, backbone.safetens"):
        load_backbone(tmp_path)
    save_backbone(tmp_path / "odd", {"weights": {"a": np.zeros(1)}}, {})
    with pytest.raises(WeightsError, match=r"holds \['weights'\], not params"):
        load_backbone(tmp_path / "odd")


def test_transposed_arrays_are_saved_right(tmp_path):
    """safetensors writes a view's memory as it lies; the reader must not see that."""
    kernel = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    save_backbone(tmp_path / "net", {"params": {"a.0": {"kernel": kernel.T}}}, {})
    loaded = load_backbone(tmp_path / "net")
    assert np.array_equal(loaded["params"]["a.0"]["kernel"], kernel.T)
    assert loaded["batch_stats"] == {}


@needs_real
def test_tinypose_by_the_same_command(tmp_path):
    source = REAL / "weights" / "tinypose_256x192.npz"
    import_weights(source, "tinypose", tmp_path / "out")
    direct, folder = load_backbone(source), load_backbone(tmp_path / "out")
    jax.tree.map(np.testing.assert_array_equal, direct, folder)
