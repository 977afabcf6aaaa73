"""Notebooks import and show. `make notebooks` runs them."""

import ast
import json
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))


def code_cells(path):
    for cell in json.loads(path.read_text())["cells"]:
        if cell["cell_type"] == "code":
            yield cell


def test_there_are_six():
    assert [p.name[:2] for p in NOTEBOOKS] == ["01", "02", "03", "04", "05", "06"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_outputs_are_stripped_and_nothing_is_defined(path):
    """What needs a `def` belongs in the package."""
    for cell in code_cells(path):
        assert cell["outputs"] == [] and cell["execution_count"] is None
        source = "".join(cell["source"])
        python = re.sub(r"^[!%].*$", "pass", source, flags=re.MULTILINE)
        for node in ast.walk(ast.parse(python)):
            forbidden = ast.FunctionDef | ast.ClassDef | ast.Lambda
            assert not isinstance(node, forbidden), source


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_kernel_is_the_one_every_installation_has(path):
    assert json.loads(path.read_text())["metadata"]["kernelspec"]["name"] == "python3"
