"""Checkpoints: orbax, asynchronous, the last few and the best by the eval metric.

State is saved as host arrays of one replica, so that a checkpoint restores on any
number of devices and processes. A checkpoint is written under another name and renamed
when it is whole, so that one that was not finished is never listed.
"""

import contextlib
import dataclasses
import logging
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import numpy as np
import orbax.checkpoint as ocp

from tdpose_jax.train_state import TrainState, fit_tree

FOLDERS = {"latest": "checkpoints", "best": "checkpoint_best"}

# Orbax warns of checkpoints without metadata of the user's, which ours never have.
logging.getLogger("absl").addFilter(
    lambda record: "Metadata file does not exist" not in str(record.msg)
)

# What file systems and tensorstore say when the disk, not the program, is at fault.
_DISK_FAULTS = re.compile(
    "No space left on device|Disk quota exceeded|File too large|Input/output error|"
    "Read-only file system|Permission denied"
)


class CheckpointError(ValueError):
    """A checkpoint is missing, unreadable, cannot be written, or is another model's.

    Names it and the remedy.
    """


@dataclasses.dataclass
class Checkpoints:
    """The checkpoints of one run folder.

    Attributes:
      workdir: the run folder; `checkpoints/` and `checkpoint_best/` are made in it.
      keep: how many of the latest stay.
    """

    workdir: Path
    keep: int = 3

    def __post_init__(self):
        folder = Path(self.workdir).absolute()
        with self._explained():
            # What a killed process left half written is removed here.
            self._latest = ocp.CheckpointManager(
                folder / FOLDERS["latest"],
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=self.keep, cleanup_tmp_directories=True
                ),
            )
            self._best = ocp.CheckpointManager(
                folder / FOLDERS["best"],
                options=ocp.CheckpointManagerOptions(
                    max_to_keep=1, cleanup_tmp_directories=True
                ),
            )

    @property
    def latest_step(self) -> int | None:
        """Step of the newest whole checkpoint, or None."""
        return self._latest.latest_step()

    def save(self, state: TrainState, input_state: dict) -> None:
        """Starts saving; `state` holds host arrays.

        Raises:
          CheckpointError: if the disk refuses, at once or what an earlier call started.
        """
        step = int(state.step)
        if self._latest.latest_step() != step:
            with self._explained():
                contents = _contents(state, input_state)
                self._latest.save(step, args=ocp.args.Composite(**contents))

    def save_if_best(self, state: TrainState, input_state: dict, score: float) -> bool:
        """Saves into `checkpoint_best/` what scores higher than what is there; waits.

        Raises:
          CheckpointError: if the disk refuses.
        """
        step, best = int(state.step), self._best.latest_step()
        with self._explained():
            if best is not None:
                kept = self._best.restore(
                    best, args=ocp.args.Composite(score=ocp.args.JsonRestore())
                )["score"]["score"]
                if best >= step or not (math.isnan(kept) or score > kept):
                    return False
            contents = _contents(state, input_state)
            contents["score"] = ocp.args.JsonSave({"score": float(score)})
            self._best.save(step, args=ocp.args.Composite(**contents))
            self._best.wait_until_finished()
        return True

    def restore(self, target: TrainState, step: int | None = None) -> tuple:
        """(state, input state) of the latest or a given checkpoint.

        Raises:
          CheckpointError: if it is damaged, or naming the first tensor that does not
            fit the model.
        """
        step = self.latest_step if step is None else step
        folder = Path(self.workdir) / FOLDERS["latest"] / str(step)
        saved = load_state_tree(folder)
        with _damage_explained(folder):
            input_state = self._latest.restore(
                step, args=ocp.args.Composite(input=ocp.args.JsonRestore())
            )["input"]
        fields = dataclasses.asdict(target)
        with _misfit_explained(folder):
            restored = {
                name: _restore_field(value, saved[name], name)
                for name, value in fields.items()
            }
        return target.replace(**restored), input_state

    def wait(self) -> None:
        """Blocks until everything that was started is on disk.

        Raises:
          CheckpointError: if the disk refuses.
        """
        with self._explained():
            self._latest.wait_until_finished()

    def close(self) -> None:
        """Waits for what is being saved and releases the folders."""
        self.wait()
        self._latest.close()
        self._best.close()

    @contextlib.contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns a fault of the disk, however deep it is wrapped, into a clear error."""
        try:
            yield
        except Exception as error:
            cause = error
            while cause is not None:
                found = _DISK_FAULTS.search(str(cause))
                if found:
                    steps = ocp.utils.checkpoint_steps(
                        Path(self.workdir) / FOLDERS["latest"]
                    )
                    raise CheckpointError(
                        f"cannot write a checkpoint into {self.workdir}: {found[0]}. "
                        f"Whole checkpoints there: steps {sorted(steps) or 'none'}. "
                        "Make room, then run the same command again"
                    ) from error
                cause = cause.__cause__ or cause.__context__
            raise


def _contents(state: TrainState, input_state: dict) -> dict[str, Any]:
    return {
        "state": ocp.args.StandardSave(dataclasses.asdict(state)),
        "input": ocp.args.JsonSave(input_state),
    }


@contextlib.contextmanager
def _damage_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # orbax and tensorstore raise many kinds
        raise CheckpointError(
            f"checkpoint {folder} is damaged ({_first_line(error)}). Delete that "
            "folder to go on from the one before it, if there is one"
        ) from error


@contextlib.contextmanager
def _misfit_explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (ValueError, KeyError) as error:
        raise CheckpointError(
            f"checkpoint {folder} does not fit this config's model: {error}. "
            "Use another --workdir, or the config that made it "
            f"({folder.parents[1] / 'config.json'})"
        ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def _restore_field(target: Any, saved: Any, name: str) -> Any:
    """Puts saved leaves into the target's structure (optimiser states are tuples)."""
    if not jax.tree.leaves(target):
        return target
    flat_target, treedef = jax.tree_util.tree_flatten_with_path(target)
    as_dict = {_path(path): leaf for path, leaf in flat_target}
    flat_saved, _ = jax.tree_util.tree_flatten_with_path(saved)
    saved_dict = {_path(path): np.asarray(leaf) for path, leaf in flat_saved}
    fitted = fit_tree(as_dict, saved_dict, name)
    fitted = flax.traverse_util.flatten_dict(fitted, sep="/")
    return jax.tree.unflatten(treedef, [fitted[_path(p)] for p, _ in flat_target])


def _path(path) -> str:
    """Names as orbax writes them: fields of named tuples like keys of dicts."""
    return jax.tree_util.keystr(path, simple=True, separator="/") or "."


def load_state_tree(folder: Path) -> dict:
    """Everything of one checkpoint as numpy arrays; needs no device and no model.

    Raises:
      CheckpointError: if there is no finished checkpoint in `folder`, or it is damaged.
    """
    if not Path(folder).is_dir():
        raise CheckpointError(f"no finished checkpoint at {folder}")
    path = Path(folder).absolute() / "state"
    with _damage_explained(folder):
        checkpointer = ocp.PyTreeCheckpointer()
        # pyrefly: ignore[missing-attribute] - orbax types it as optional
        tree = checkpointer.metadata(path).item_metadata.tree
        arguments = jax.tree.map(
            lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
            tree,
            is_leaf=lambda x: not isinstance(x, dict | list | tuple),
        )
        return checkpointer.restore(path, item=tree, restore_args=arguments)


def latest_step(workdir: Path) -> int | None:
    """Step of a run's newest whole checkpoint, or None. Only looks."""
    return _newest(Path(workdir) / FOLDERS["latest"])


def _newest(folder: Path) -> int | None:
    steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
    return max(steps, default=None)


def load_variables(
    workdir: Path, which: str = "best", needed: dict | None = None
) -> tuple[dict, int]:
    """({"params", "batch_stats"}, step) of a run, as numpy arrays.

    Args:
      which: "best" (falls back to the latest if none was evaluated) or "latest".
      needed: the model's variables or their shapes, which the run's must fit.

    Raises:
      CheckpointError: if the run has no checkpoint, it is damaged or another model's, or
        for an unknown `which`.
    """
    if which not in FOLDERS:
        raise CheckpointError(
            f"eval.checkpoint={which!r}; choose one of {', '.join(FOLDERS)}"
        )
    for kind in dict.fromkeys([which, "latest"]):
        step = _newest(Path(workdir) / FOLDERS[kind])
        if step is None:
            continue
        folder = Path(workdir) / FOLDERS[kind] / str(step)
        tree = load_state_tree(folder)
        variables = {
            "params": {**tree["params"], **(tree["frozen_params"] or {})},
            "batch_stats": tree["batch_stats"] or {},
        }
        if needed is not None:
            with _misfit_explained(folder):
                variables = {
                    kind: fit_tree(needed[kind], tree, kind)
                    for kind, tree in variables.items()
                }
        return variables, step
    raise CheckpointError(
        f"no checkpoint in {workdir}: expected {FOLDERS['latest']}/<step>; train first "
        "with main.py --mode=train --workdir=..."
    )
