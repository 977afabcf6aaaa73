"""Checkpoints: orbax, asynchronous, the last few and the best by the eval metric.

State is saved as host arrays of one replica, so that a checkpoint restores on any
number of devices and processes. A checkpoint that was not finished is never listed.
"""

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from tdpose_jax.train_state import TrainState, fit_tree

FOLDERS = {"latest": "checkpoints", "best": "checkpoint_best"}


class CheckpointError(ValueError):
    """A checkpoint is missing or belongs to another model. Names it and the remedy."""


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
        self._latest = ocp.CheckpointManager(
            folder / FOLDERS["latest"],
            options=ocp.CheckpointManagerOptions(max_to_keep=self.keep),
        )
        self._best = ocp.CheckpointManager(
            folder / FOLDERS["best"],
            options=ocp.CheckpointManagerOptions(
                max_to_keep=1,
                best_fn=lambda metrics: metrics["score"],
                best_mode="max",
            ),
        )

    @property
    def latest_step(self) -> int | None:
        return self._latest.latest_step()

    def save(self, state: TrainState, input_state: dict, score: float | None) -> None:
        """Starts saving; `state` holds host arrays. With a score, it may be the best."""
        step = int(state.step)
        args = ocp.args.Composite(
            state=ocp.args.StandardSave(dataclasses.asdict(state)),
            input=ocp.args.JsonSave(input_state),
        )
        if self._latest.latest_step() != step:
            self._latest.save(step, args=args)
        if score is not None and step not in self._best.all_steps():
            self._best.save(step, args=args, metrics={"score": float(score)})

    def restore(self, target: TrainState, step: int | None = None) -> tuple:
        """(state, input state) of the latest or a given checkpoint.

        Raises:
          CheckpointError: naming the first tensor that does not fit the model.
        """
        step = self.latest_step if step is None else step
        folder = Path(self.workdir) / FOLDERS["latest"] / str(step)
        saved = load_state_tree(folder)
        fields = dataclasses.asdict(target)
        restored = {}
        for name, value in fields.items():
            try:
                restored[name] = _restore_field(value, saved[name], name)
            except (ValueError, KeyError) as error:
                raise CheckpointError(
                    f"checkpoint {folder} does not fit this config's model: {error}. "
                    "Use another --workdir, or the config that made it "
                    f"({Path(self.workdir) / 'config.json'})"
                ) from error
        input_state = self._latest.restore(
            step, args=ocp.args.Composite(input=ocp.args.JsonRestore())
        )["input"]
        return target.replace(**restored), input_state

    def wait(self) -> None:
        """Blocks until everything that was started is on disk."""
        self._latest.wait_until_finished()
        self._best.wait_until_finished()

    def close(self) -> None:
        self.wait()
        self._latest.close()
        self._best.close()


def _restore_field(target: Any, saved: Any, name: str) -> Any:
    """Puts saved leaves into the target's structure (optimiser states are tuples)."""
    if not jax.tree.leaves(target):
        return target
    flat_target, treedef = jax.tree_util.tree_flatten_with_path(target)
    as_dict = {_path(path): leaf for path, leaf in flat_target}
    flat_saved, _ = jax.tree_util.tree_flatten_with_path(saved)
    saved_dict = {_path(path): np.asarray(leaf) for path, leaf in flat_saved}
    fitted = fit_tree(as_dict, saved_dict, name)
    return jax.tree.unflatten(treedef, [fitted[_path(p)] for p, _ in flat_target])


def _path(path) -> str:
    return "/".join(str(getattr(p, "key", getattr(p, "idx", p))) for p in path) or "."


def load_state_tree(folder: Path) -> dict:
    """Everything of one checkpoint as numpy arrays; needs no device and no model.

    Raises:
      CheckpointError: if there is no finished checkpoint in `folder`.
    """
    path = Path(folder).absolute() / "state"
    if not path.is_dir():
        raise CheckpointError(f"no finished checkpoint at {folder}")
    checkpointer = ocp.PyTreeCheckpointer()
    tree = checkpointer.metadata(path).item_metadata.tree
    arguments = jax.tree.map(
        lambda _: ocp.RestoreArgs(restore_type=np.ndarray),
        tree,
        is_leaf=lambda x: not isinstance(x, dict | list | tuple),
    )
    return checkpointer.restore(path, item=tree, restore_args=arguments)


def load_variables(workdir: Path, which: str = "best") -> tuple[dict, int]:
    """({"params", "batch_stats"}, step) of a run, as numpy arrays.

    Args:
      which: "best" (falls back to the latest if none was evaluated) or "latest".

    Raises:
      CheckpointError: if the run has no checkpoint, or for an unknown `which`.
    """
    if which not in FOLDERS:
        raise CheckpointError(
            f"eval.checkpoint={which!r}; choose one of {', '.join(FOLDERS)}"
        )
    for kind in dict.fromkeys([which, "latest"]):
        folder = Path(workdir) / FOLDERS[kind]
        steps = ocp.utils.checkpoint_steps(folder) if folder.is_dir() else []
        if steps:
            step = max(steps)
            tree = load_state_tree(folder / str(step))
            params = {**tree["params"], **(tree["frozen_params"] or {})}
            return {"params": params, "batch_stats": tree["batch_stats"] or {}}, step
    raise CheckpointError(
        f"no checkpoint in {workdir}: expected {FOLDERS['latest']}/<step>; train first "
        "with main.py --mode=train --workdir=..."
    )
