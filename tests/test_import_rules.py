"""Who may import whom, from the syntax trees: the model knows no data, no config."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CORE = {"shapes", "skeleton", "geometry"}
ANNOTATIONS = {p.stem for p in (ROOT / "tdpose_jax").glob("annotation*.py")}

# folder or file -> parts of the house that it may import; itself is always allowed.
ALLOWED = {
    "tdpose_jax/shapes.py": set(),
    "tdpose_jax/skeleton.py": set(),
    "tdpose_jax/geometry.py": set(),
    "tdpose_jax/mutual_information.py": {"models.initializers"},
    "tdpose_jax/heatmaps.py": {"shapes"},
    "tdpose_jax/losses.py": {"mutual_information", "heatmaps", "shapes"},
    "tdpose_jax/models": {"shapes", "models"},
    "tdpose_jax/metrics": {"skeleton", "metrics"} | ANNOTATIONS,
    "tdpose_jax/visualize.py": {"skeleton", "shapes"},
    "tdpose_jax/visualize_motion.py": {"skeleton", "shapes", "visualize"},
    "tdpose_jax/nearest_neighbour_information.py": set(),
    "tdpose_jax/information_check.py": {
        *("mutual_information", "nearest_neighbour_information"),
    },
    "tdpose_jax/ablation_table.py": set(),
    "tdpose_jax/interop": {
        *("interop", "models", "heatmaps", "shapes", "skeleton"),
        *("checkpoint", "run_folder", "setup_run", "steps", "train_state"),
    },
}


# Commands that check themselves on a data set where there is one.
COMMANDS = {"parity.py", "export_torch.py"}


def modules(path):
    """All modules of the house that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def files_of(where):
    path = ROOT / where
    return [path] if path.is_file() else sorted(path.rglob("*.py"))


@pytest.mark.parametrize("where", ALLOWED)
def test_imports_inside_the_house(where):
    for path in files_of(where):
        for module in modules(path):
            if path.name in COMMANDS:
                continue
            assert not module.startswith(("configs", "data_pipelines")), (path, module)
            parts = module.split(".")
            if parts[0] != "tdpose_jax" or len(parts) < 2:
                continue
            inner = ".".join(parts[1:])
            own = path.relative_to(ROOT / "tdpose_jax").with_suffix("").as_posix()
            allowed = ALLOWED[where] | {own.replace("/", ".")}
            fits = any(inner == a or inner.startswith(f"{a}.") for a in allowed)
            assert fits, f"{path.relative_to(ROOT)} imports {module}"


def test_only_the_data_pipelines_import_tensorflow():
    for path in files_of("tdpose_jax"):
        for module in modules(path):
            top = module.split(".")[0]
            assert top not in ("tensorflow", "tensorflow_datasets"), path


def test_data_pipelines_know_no_model():
    core = CORE | ANNOTATIONS | {"matfile"}
    for path in files_of("data_pipelines"):
        for module in modules(path):
            if module.startswith("tdpose_jax."):
                assert module.split(".")[1] in core, f"{path} imports {module}"


def test_configs_import_only_configs_and_ml_collections():
    for path in files_of("configs"):
        tops = {module.split(".")[0] for module in modules(path)}
        assert tops <= {"configs", "ml_collections"}, path


def test_the_package_imports_without_tensorflow_and_torch():
    import subprocess
    import sys

    code = (
        "import sys\n"
        "for name in ('tensorflow', 'torch', 'tensorflow_datasets'):\n"
        "    sys.modules[name] = None\n"
        "import tdpose_jax.models.factory, tdpose_jax.steps, tdpose_jax.losses\n"
        "import tdpose_jax.metrics.score, tdpose_jax.evaluate, tdpose_jax.train\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
