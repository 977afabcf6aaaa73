"""The breakdown by what is hidden, on generated labels and predictions made from them."""

import dataclasses
import json

import numpy as np
import pytest

from data_pipelines import synthetic
from tdpose_jax.annotations import load_annotations, save_posetrack17
from tdpose_jax.metrics import hidden_joints


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """One video of six frames; its third frame is said to be spoilt, no other one."""
    folder = tmp_path_factory.mktemp("data")
    synthetic.generate(folder, 3, {"val": 1}, 6, (96, 128), (2, 2), 1)
    (path,) = (folder / "annotations" / "val").iterdir()
    content = json.loads(path.read_text())
    for i, image in enumerate(content["images"]):
        image["spoilt"] = i == 2
    path.write_text(json.dumps(content))
    return path.parent


def save_guesses(labels, folder, change):
    """Predictions equal to the labels but for `change(kinds, xyv)`, people reversed."""
    (path,) = labels.iterdir()
    truth = load_annotations(path)
    frames = []
    kinds = hidden_joints.joint_kinds(path)
    for kinds_of_frame, frame in zip(kinds, truth.frames, strict=True):
        persons = []
        for kinds_of_person, person in zip(kinds_of_frame, frame.persons, strict=True):
            xyv = person.keypoints_xyv.copy()
            change(kinds_of_person, xyv)
            persons.append(dataclasses.replace(person, keypoints_xyv=xyv))
        frames.append(dataclasses.replace(frame, persons=tuple(persons[::-1])))
    folder.mkdir()
    guess = dataclasses.replace(truth, frames=tuple(frames))
    save_posetrack17(guess, folder / path.name)
    return hidden_joints.score_by_kind(labels, folder)


def test_kinds_do_not_overlap_and_are_scored_apart(labels, tmp_path):
    scores, joints = save_guesses(labels, tmp_path / "equal", lambda kinds, xyv: None)
    assert [scores[kind] for kind in hidden_joints.KINDS] == [100, 100, 100]
    (path,) = labels.iterdir()
    people = [p for frame in load_annotations(path).frames for p in frame.persons]
    labelled = sum(np.count_nonzero(p.keypoints_xyv[:, 2]) for p in people)
    counts = [joints[kind] for kind in hidden_joints.KINDS]
    assert sum(counts) == labelled and min(counts) > 0

    def miss(missed):
        def change(kinds, xyv):
            xyv[(kinds == missed) & (xyv[:, 2] > 0), 1] += 30.0

        return change

    scores, _ = save_guesses(labels, tmp_path / "occluded", miss(1))
    assert [scores[kind] for kind in hidden_joints.KINDS] == [100, 0, 100]
    scores, _ = save_guesses(labels, tmp_path / "spoilt", miss(2))
    assert scores["clean"] == 100 and scores["occluded"] == 100
    assert scores["spoilt"] < 50  # a shifted person may come to lie on the other


def test_other_labels_and_missing_predictions_are_named(labels, tmp_path):
    with pytest.raises(ValueError, match="missing; has this run been evaluated"):
        hidden_joints.score_by_kind(labels, tmp_path)
    with pytest.raises(ValueError, match="no label files"):
        hidden_joints.score_by_kind(tmp_path, tmp_path)
    (path,) = labels.iterdir()
    content = json.loads(path.read_text())
    for person in content["annotations"]:
        del person["occluded"]
    (tmp_path / path.name).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="has no 'occluded'; only labels"):
        hidden_joints.joint_kinds(tmp_path / path.name)


def test_the_command_writes_into_the_run(labels, tmp_path, capsys):
    predictions = tmp_path / "run" / "predictions"
    (tmp_path / "run").mkdir()
    _, joints = save_guesses(labels, predictions, lambda kinds, xyv: None)
    hidden_joints.main([str(tmp_path / "run"), f"--labels={labels}"])
    assert "clean 100.00, occluded 100.00, spoilt 100.00" in capsys.readouterr().out
    written = json.loads((tmp_path / "run" / "hidden_joints.json").read_text())
    scores = {"clean": 100.0, "occluded": 100.0, "spoilt": 100.0}
    assert written == {"PCKh@0.5": scores, "num_joints": joints}
