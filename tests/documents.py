"""Runs every command and code block of the README and of CONTRIBUTING.md as written.

    python -m tests.documents README.md CONTRIBUTING.md

Each document is followed from top to bottom in a clone of the repository with its
uncommitted changes, beside copies of `make demo`'s data and runs. The downloads it names
(POSETRACK17, video.mp4, ...) are tiny ones made here. SMALLER holds what is added to a
command so that it ends in time; CLONING holds those that making the clone stands for,
ELSEWHERE those that CI runs itself, with the file that shows it.

Languages: `sh` is run by bash, `python` by Python (or is a new file, if its first line is
a comment with its path), `diff` is applied, `bibtex` and `text` are only read.
"""

import argparse
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LANGUAGES = ("sh", "python", "diff", "bibtex", "text")

ONE_STEP_OF_W48 = (
    "--config.train.num_steps=1 --config.train.batch_size=1 --config.eval.batch_size=1 "
    "'--config.data.crop_size_hw=(64,64)'"
)
FEW_STEPS = "--config.train.num_steps=2"
# Start of a command -> what is added to it.
SMALLER = {
    "make pod-sim": f"ARGS={FEW_STEPS}",
    "python -m tdpose_jax.ablations": "--set train.num_steps=2",
    "python main.py --config=configs/posetrack17.py": ONE_STEP_OF_W48,
    "python main.py --config=configs/posetrack18.py": ONE_STEP_OF_W48,
    "python main.py --config=configs/posetrack21.py": ONE_STEP_OF_W48,
    "python main.py --config=configs/hieve.py": ONE_STEP_OF_W48,
    "python main.py --config=configs/jhmdb.py": FEW_STEPS,
    "python main.py --config=configs/demo.py": FEW_STEPS,
}
# What `copy_repository` does.
CLONING = ("git clone REPOSITORY tdpose", "cd tdpose")
# Command -> the file that runs it in CI, and words there that show it.
ELSEWHERE = {
    "make demo": (".ci/run", "make demo"),
    "make test": (".ci/run", "make test"),
    "make lint": (".ci/run", "make lint"),
    "make notebooks": (".ci/run", "make notebooks"),
}
HEAD = {"x1": [10.0], "y1": [4.0], "x2": [16.0], "y2": [12.0]}
# Folder in which a Python block is run, by a line of it.
WORKING_DIRECTORY = {"import tdmi_torch": "export"}


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block; `line` is that of its first line in the document."""

    language: str
    text: str
    line: int

    @property
    def new_file(self) -> str | None:
        """The path a Python block begins with, if it is a file to be made."""
        match = re.match(r"# ([\w/]+\.py)\n", self.text)
        return match[1] if self.language == "python" and match else None

    @property
    def commands(self) -> list[str]:
        """The commands of an `sh` block, continued lines joined."""
        joined = re.sub(r" *\\\n *", " ", self.text)
        lines = [line.strip() for line in joined.splitlines()]
        return [line for line in lines if line and not line.startswith("#")]


def read_blocks(path: Path) -> list[Block]:
    """All fenced blocks of a document, in order.

    Raises:
      ValueError: for a block without a language, or that is not closed.
    """
    blocks, language, lines, first = [], None, [], 0
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        if not line.startswith("```"):
            lines.append(line)
            continue
        if language is None:
            language, lines, first = line[3:].strip(), [], number + 1
            if language not in LANGUAGES:
                raise ValueError(f"{path.name}:{number}: one of {LANGUAGES}, please")
        else:
            blocks.append(Block(language, "\n".join(lines) + "\n", first))
            language = None
    if language is not None:
        raise ValueError(f"{path.name}:{first}: this block is not closed")
    return blocks


def smaller(command: str) -> str:
    """The command as it is run."""
    return " ".join(
        [
            command,
            *(extra for start, extra in SMALLER.items() if command.startswith(start)),
        ]
    )


def copy_repository(root: Path, target: Path) -> None:
    """A clone of `root` in `target`, its uncommitted changes, and its .venv as a link."""
    subprocess.run(["git", "clone", "--quiet", root, target], check=True)
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=root,
        capture_output=True,
        check=True,
        text=True,
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target / name)
        else:
            (target / name).unlink(missing_ok=True)
    (target / ".venv").symlink_to(root / ".venv")


def make_downloads(target: Path) -> None:
    """Everything the README takes from outside, tiny, under the names it uses."""
    import torch

    from data_pipelines.synthetic import render_video
    from tdpose_jax.annotations import load_annotations, save_posetrack17
    from tdpose_jax.interop.torch_template.tdmi_torch import HRNet
    from tests.data_pipelines import small_sets
    from tests.data_pipelines.test_jhmdb_hieve import make_hieve

    for folder in ("data/demo", "runs/demo"):
        if not (ROOT / folder).is_dir():
            sys.exit(f"{folder} is missing: make demo")
        shutil.copytree(ROOT / folder, target / folder)
    for year in ("17", "18", "21"):
        small_sets.make_posetrack18(target / f"POSETRACK{year}")
    for path in (target / "POSETRACK17" / "annotations").rglob("*.json"):
        save_posetrack17(load_annotations(path), path)
        labels = json.loads(path.read_text())
        for frame in labels["annolist"]:
            # A submission has dummies, which have a score, and no heads.
            people = [p for p in frame["annorect"] if "score" not in p]
            frame["annorect"] = [p | HEAD for p in people]
        path.write_text(json.dumps(labels))
    (target / "POSETRACK21/annotations").rename(target / "POSETRACK21/posetrack_data")
    boxes = small_sets.detection_list("val", "c", range(1, 5))
    (target / "boxes.json").write_text(json.dumps(boxes))
    make_hieve(target / "HIEVE")
    small_sets.make_jhmdb(target / "JHMDB")
    render_video(target / "video.mp4", seed=1, num_frames=12)
    torch.manual_seed(0)
    torch.save(HRNet(width=48).state_dict(), target / "pose_hrnet_w48_384x288.pth")


def run_block(block: Block, folder: Path, environment: dict[str, str]) -> None:
    """Does what a block says, in `folder`.

    Raises:
      subprocess.CalledProcessError: if it fails.
    """

    def call(arguments, **options):
        options = {"cwd": folder, "env": environment, "check": True} | options
        subprocess.run(arguments, **options)

    if block.new_file:
        (folder / block.new_file).write_text(block.text.split("\n", 1)[1].lstrip("\n"))
    elif block.language == "python":
        where = [d for line, d in WORKING_DIRECTORY.items() if line in block.text]
        call([sys.executable, "-c", block.text], cwd=folder / "".join(where[:1]))
    elif block.language == "diff":
        call(["git", "apply", "-"], input=block.text, text=True)
    elif block.language == "sh":
        elsewhere = {*CLONING, *ELSEWHERE}
        script = [smaller(c) for c in block.commands if c not in elsewhere]
        call(["bash", "-euo", "pipefail", "-c", "\n".join(script)])


def follow(document: Path, folder: Path) -> None:
    """Runs all blocks of a document and prints how long each took."""
    environment = os.environ | {
        "PATH": f"{folder / '.venv' / 'bin'}:{os.environ['PATH']}",
        "PYTHONPATH": str(folder),
        "TF_CPP_MIN_LOG_LEVEL": "2",
        # `git apply` must not take a repository around the copy for its own.
        "GIT_CEILING_DIRECTORIES": str(folder.parent),
    }
    for block in read_blocks(document):
        first = block.commands[0] if block.language == "sh" else block.language
        print(f"--- {document.name}:{block.line}: {first}", flush=True)
        began = time.perf_counter()
        run_block(block, folder, environment)
        print(f"--- {time.perf_counter() - began:.1f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("documents", nargs="+", type=Path)
    for document in parser.parse_args().documents:
        with tempfile.TemporaryDirectory(prefix="tdpose-documents-") as folder:
            copy_repository(ROOT, Path(folder))
            if document.name == "README.md":
                make_downloads(Path(folder))
            follow(document.resolve(), Path(folder))
    print("all blocks ran")


if __name__ == "__main__":
    main()
