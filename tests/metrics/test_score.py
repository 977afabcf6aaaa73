"""The command and the function: files, table, JSON, notes and one-line errors."""

import dataclasses
import json
import subprocess
import sys

import numpy as np
import pytest

from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    save_hieve,
    save_posetrack17,
    save_posetrack18,
)
from tdpose_jax.metrics.protocols import group_means, score
from tdpose_jax.metrics.score import load_folders, main, score_packed
from tdpose_jax.skeleton import POSETRACK_OFFICIAL_JOINTS
from tests.metrics.golden_sets import g1, person, sequence


@pytest.fixture
def folders(tmp_path):
    truth, guess, _ = g1()
    for kind, sequences in (("truth", truth), ("guess", guess)):
        (tmp_path / kind).mkdir()
        for s in sequences:
            save_posetrack18(s, tmp_path / kind / f"{s.name}.json")
    return tmp_path


def flags(folder, protocol="poseval"):
    return [
        f"--ground_truth={folder / 'truth'}",
        f"--predictions={folder / 'guess'}",
        f"--protocol={protocol}",
        f"--output={folder / 'out' / 'scores.json'}",
    ]


def test_command_prints_groups_and_writes_every_joint(folders):
    run = subprocess.run(
        [sys.executable, "-m", "tdpose_jax.metrics.score", *flags(folders)],
        capture_output=True,
        text=True,
        check=True,
    )
    for text in ("Shoulder", "47.32", "54.14", "49.40", "24.56", "18 frames"):
        assert text in run.stdout, run.stdout
    written = json.loads((folders / "out" / "scores.json").read_text())
    assert written["AP"]["total"] == pytest.approx(49.400708, abs=5e-7)
    assert list(written["MOTA"]) == [*POSETRACK_OFFICIAL_JOINTS, "total"]
    expected = {"AP", "precision", "recall", "MOTA", "MOTP"}
    assert expected | {"MOTP_as_printed_by_poseval"} <= set(written)
    assert written["notes"] == []


def test_files_give_what_labels_give(folders):
    truth, guess, _ = g1()
    for protocol in ("poseval", "posetrack21"):
        for processes in (1, 2):
            data, skeleton = load_folders(
                folders / "truth", folders / "guess", protocol, processes
            )
            assert skeleton == "posetrack"
            assert score_packed(data, protocol) == score(truth, guess, protocol)


def test_posetrack17_predictions_against_posetrack18_ground_truth(folders, capsys):
    """The dummies of empty frames cost precision of right_ankle, and nothing else of AP."""
    _, guess, _ = g1()
    for s in guess:
        save_posetrack17(s, folders / "guess" / f"{s.name}.json")
    assert main(flags(folders)) == 0
    written = json.loads((folders / "out" / "scores.json").read_text())
    assert written["AP"]["total"] == pytest.approx(49.400708, abs=5e-7)
    assert written["precision"]["right_ankle"] < 100 * 34 / 52
    assert written["precision"]["left_ankle"] == pytest.approx(66)


def test_nan_is_written_as_null(tmp_path):
    for kind, without in (("truth", (6,)), ("guess", ())):
        (tmp_path / kind).mkdir()
        label = sequence(*[(person(0, score=0.5, without=without),)] * 2, name="a")
        save_posetrack18(label, tmp_path / kind / "a.json")
    assert main(flags(tmp_path)) == 0
    written = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert written["AP"]["right_wrist"] is None and written["AP"]["total"] == 100


def without_tracks(sequences):
    return [
        dataclasses.replace(
            s,
            frames=tuple(
                dataclasses.replace(
                    f,
                    persons=tuple(
                        dataclasses.replace(p, track_id=None) for p in f.persons
                    ),
                )
                for f in s.frames
            ),
        )
        for s in sequences
    ]


@pytest.mark.parametrize(
    "protocol, gone", [("poseval", "MOTA"), ("posetrack21", "HOTA")]
)
def test_without_tracks_the_measures_are_left_out_with_a_note(protocol, gone):
    truth, guess, _ = g1()
    full = score(truth, guess, protocol)
    result = score(truth, without_tracks(guess), protocol)
    assert gone not in result and result["AP"] == full["AP"]
    assert result["notes"] == [
        f"no {gone}: 000001_mpii_test, frame 0: the prediction has no track ids"
    ]
    assert gone not in score(without_tracks(truth), guess, protocol)


def error_of(capsys, arguments):
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and err.count("\n") == 1
    return err


def test_missing_prediction(folders, capsys):
    (folders / "guess" / "000002_mpii_test.json").unlink()
    error = error_of(capsys, flags(folders))
    assert "000002_mpii_test.json: no such prediction (1 of 2 missing)" in error


def test_wrong_frame_count(folders, capsys):
    _, guess, _ = g1()
    short = dataclasses.replace(guess[1], frames=guess[1].frames[:-1])
    path = folders / "guess" / "000002_mpii_test.json"
    save_posetrack18(short, path)
    error = error_of(capsys, flags(folders))
    assert str(path) in error
    assert "the ground truth has 12 frames, the prediction 11" in error


def test_duplicated_track_ids(folders, capsys):
    _, guess, _ = g1()
    frames = list(guess[0].frames)
    frames[2] = dataclasses.replace(
        frames[2],
        persons=tuple(dataclasses.replace(p, track_id=7) for p in frames[2].persons),
    )
    path = folders / "guess" / "000001_mpii_test.json"
    save_posetrack18(dataclasses.replace(guess[0], frames=tuple(frames)), path)
    error = error_of(capsys, flags(folders))
    assert f"{path}: 000001_mpii_test, frame 2 (images/val/" in error
    assert "track id 7 twice" in error


def test_other_image_ids(folders, capsys):
    _, guess, _ = g1()
    frames = list(guess[0].frames)
    frames[3] = dataclasses.replace(frames[3], image_id=5)
    path = folders / "guess" / "000001_mpii_test.json"
    save_posetrack18(dataclasses.replace(guess[0], frames=tuple(frames)), path)
    error = error_of(capsys, flags(folders))
    assert "frame 3" in error and "image id 10000010003, the prediction 5" in error


def test_malformed_prediction(folders, capsys):
    path = folders / "guess" / "000001_mpii_test.json"
    path.write_text("{")
    assert f"{path}: is not valid JSON" in error_of(capsys, flags(folders))


def test_empty_ground_truth_folder(tmp_path, capsys):
    (tmp_path / "truth").mkdir()
    assert "no .json or .mat file" in error_of(capsys, flags(tmp_path))


def test_function_errors():
    truth, guess, _ = g1()
    with pytest.raises(ValueError, match="poseval, posetrack21, hieve_approx"):
        score(truth, guess, "coco")
    with pytest.raises(ValueError, match="no prediction for 1 of 2 sequences"):
        score(truth, guess[:1])
    with pytest.raises(ValueError, match="same sequence name"):
        score(truth, [guess[0], guess[0]])
    with pytest.raises(ValueError, match="nothing to score"):
        score([], [])
    with pytest.raises(ValueError, match="frame 0 .* has no person box"):
        score(truth, guess, "hieve_approx")
    with pytest.raises(ValueError, match="frame 0 .* has no head box"):
        score(guess, guess)


def hieve_sequence(shift=0.0):
    xyv = np.ones((14, 3))
    xyv[:, 0] = 100 + 20 * np.arange(14) + shift
    box = np.array([90.0, 0, 200, 100])  # reference length 30
    label = PersonLabel(xyv, np.full(14, 0.5), person_box_xywh=box, track_id=0)
    frames = tuple(FrameLabel(f"{i:06d}.jpg", persons=(label,)) for i in range(3))
    return SequenceLabel("11", "hieve", frames)


def test_hieve_approximation_says_so_and_tightens(tmp_path, capsys):
    result = score([hieve_sequence()], [hieve_sequence(5.0)], "hieve_approx")
    at = [result[f"AP@{t}"]["total"] for t in (50, 75, 90)]
    assert at == [100, 100, 0]
    assert result["AP"]["total"] == pytest.approx(200 / 3)
    assert "approximation" in result["notes"][0]
    for kind, shift in (("truth", 0.0), ("guess", 5.0)):
        (tmp_path / kind).mkdir()
        save_hieve(hieve_sequence(shift), tmp_path / kind / "11.json")
    assert main(flags(tmp_path, "hieve_approx")) == 0
    assert "approximation" in capsys.readouterr().out


def test_group_means_do_not_skip_nan():
    per_joint = dict.fromkeys(POSETRACK_OFFICIAL_JOINTS, 50.0) | {"total": 50.0}
    per_joint["right_wrist"] = float("nan")
    per_joint["nose"] = 80.0
    groups = group_means(per_joint, "posetrack")
    assert groups["Head"] == pytest.approx(60) and np.isnan(groups["Wrist"])
    assert groups["Total"] == 50
