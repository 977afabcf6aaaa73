"""Feeds mutated real annotation files to the readers.

    python -m benchmarks.fuzz_readers --cases=10000 [--seed=0]

Every case must either parse, into labels that hold their promises, or raise
AnnotationError with the file's name; anything else is a failure and is printed. Half the
cases change the parsed structure (drop, repeat, retype or replace values), half the bytes.
"""

import argparse
import copy
import dataclasses
import json
import os
import random
import sys
import time
import traceback
from pathlib import Path

import numpy as np

from tdpose_jax.annotations import (
    AnnotationError,
    SequenceLabel,
    load_annotations,
    save_hieve,
    save_posetrack17,
    save_posetrack18,
)
from tdpose_jax.skeleton import HIEVE, SKELETONS

SLOW_SECONDS = 20.0
# Values that tend to break parsers.
_POISON = (
    None,
    True,
    "",
    "x",
    "../../etc/passwd",
    "/etc/passwd",
    "C:\\x.jpg",
    "a/../../b.jpg",
    "nul\x00.jpg",
    "\ud800.jpg",
    [],
    {},
    [[]],
    [None],
    [[1]],
    {"point": 3},
    0,
    -1,
    1.5,
    15,
    99,
    2**63,
    -(2**64),
    10**400,
    1e308,
    float("nan"),
    float("inf"),
    -0.0,
    "1.0",
    [1, 2, 3],
)
_BYTES = (
    b"[",
    b"{",
    b"}",
    b"]",
    b",",
    b'"',
    b"-",
    b"1e999",
    b"NaN",
    b"\\u0000",
    b"\xff",
)


@dataclasses.dataclass
class Report:
    cases: int = 0
    parsed: int = 0
    refused: int = 0
    slowest: float = 0.0
    failures: list[str] = dataclasses.field(default_factory=list)


def real_files(real: Path, folder: Path) -> list[Path]:
    """The real files, and their forms for the readers without a real sample.

    Real PoseTrack17 and 18 files are used as they are; HiEve, PoseTrack21 predictions, a
    2017 submission and a MATLAB file are written from them.
    """
    import scipy.io

    seventeen = real / "posetrack17/annotations/val/060470979.json"
    eighteen = sorted((real / "posetrack18/annotations/val").glob("*.json"))
    sequence = load_annotations(seventeen)
    short = dataclasses.replace(sequence, frames=sequence.frames[:3])
    save_posetrack18(short, folder / "predictions21.json")
    save_posetrack17(short, folder / "submission17.json")
    save_hieve(_as_hieve(short), folder / "hieve.json")
    content = json.loads(seventeen.read_text())
    content["annolist"] = content["annolist"][:2]
    (folder / "short17.json").write_text(json.dumps(content))
    for name, packed in (("plain17.mat", False), ("packed17.mat", True)):
        scipy.io.savemat(
            folder / name, {"annolist": content["annolist"]}, do_compression=packed
        )
    names = "predictions21.json submission17.json hieve.json short17.json"
    names += " plain17.mat packed17.mat"
    return [seventeen, *eighteen, *(folder / name for name in names.split())]


def _as_hieve(sequence: SequenceLabel) -> SequenceLabel:
    def shrink(person):
        return dataclasses.replace(
            person,
            keypoints_xyv=person.keypoints_xyv[: HIEVE.num_keypoints],
            joint_scores=person.joint_scores[: HIEVE.num_keypoints],
            person_box_xywh=np.array([1.0, 2.0, 30.0, 40.0]),
        )

    frames = tuple(
        dataclasses.replace(
            frame,
            image_name=f"{i:06d}.jpg",
            persons=tuple(shrink(p) for p in frame.persons),
        )
        for i, frame in enumerate(sequence.frames)
    )
    return SequenceLabel("11", "hieve", frames)


def mutate_structure(content: object, rng: random.Random) -> object:
    """One to three changes somewhere in the parsed file."""
    content = copy.deepcopy(content)
    for _ in range(rng.randint(1, 3)):
        parent, key = _random_place(content, rng)
        if parent is None:
            return rng.choice(_POISON)
        action = rng.randrange(5)
        if action == 0:
            del parent[key]
        elif action == 1 and isinstance(parent, list):
            parent.insert(key, copy.deepcopy(parent[key]))
        elif action == 2:
            parent[key] = [parent[key]]
        elif action == 3 and isinstance(parent[key], list) and parent[key]:
            rng.shuffle(parent[key])
            parent[key].pop()
        else:
            parent[key] = copy.deepcopy(rng.choice(_POISON))
    return content


def _random_place(content: object, rng: random.Random) -> tuple[object, object]:
    parent = key = None
    node = content
    while (
        isinstance(node, dict | list)
        and node
        and (parent is None or rng.random() < 0.85)
    ):
        key = (
            rng.choice(list(node))
            if isinstance(node, dict)
            else rng.randrange(len(node))
        )
        parent, node = node, node[key]
    return parent, key


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Flips, cuts, repeats and inserts bytes; sometimes nests deeply."""
    if rng.random() < 0.02:
        return b"[" * rng.choice((100, 5_000, 200_000)) + data
    data = bytearray(data)
    for _ in range(rng.randint(1, 6)):
        if not data:
            break
        i = rng.randrange(len(data))
        action = rng.randrange(5)
        if action == 0:
            data[i] ^= 1 << rng.randrange(8)
        elif action == 1:
            del data[i : i + rng.randint(1, 40)]
        elif action == 2:
            data[i:i] = data[i : i + rng.randint(1, 40)]
        elif action == 3:
            data[i : i + 1] = rng.choice(_BYTES)
        elif rng.random() < 0.2:
            del data[i:]
        else:  # digits for digits: stays JSON, changes values
            if chr(data[i]).isdigit():
                data[i : i + 1] = rng.choice((b"9" * 30, b"-1", b"0.5", b"9"))
    return bytes(data)


def check(sequence: SequenceLabel) -> None:
    """What every parsed sequence promises. Raises AssertionError."""
    num_keypoints = SKELETONS[sequence.skeleton].num_keypoints
    for frame in sequence.frames:
        name = frame.image_name
        assert not name.startswith("/") and ".." not in name.split("/"), name
        assert not os.path.isabs(name) and "\\" not in name, name
        assert isinstance(frame.is_labeled, bool)
        for polygon in frame.ignore_polygons:
            assert polygon.shape[1] == 2 and np.isfinite(polygon).all()
        for person in frame.persons:
            assert person.keypoints_xyv.shape == (num_keypoints, 3)
            assert np.isfinite(person.keypoints_xyv).all()
            assert not np.isinf(person.joint_scores).any()
            assert person.track_id is None or -(2**63) <= person.track_id < 2**63
            for box in (person.head_box_xyxy, person.person_box_xywh):
                assert box is None or (box.shape == (4,) and np.isfinite(box).all())


def fuzz(files: list[Path], cases: int, seed: int, folder: Path) -> Report:
    """Runs the cases; deterministic in (files, cases, seed)."""
    rng = random.Random(seed)
    report = Report()
    originals = [
        (
            path.suffix,
            data := path.read_bytes(),
            path.suffix == ".json" and json.loads(data),
        )
        for path in files
    ]
    for case in range(cases):
        suffix, data, content = originals[case % len(originals)]
        if content and rng.random() < 0.5:
            mutated = json.dumps(mutate_structure(content, rng)).encode()
        else:
            mutated = mutate_bytes(data, rng)
        path = folder / f"mutated{suffix}"
        path.write_bytes(mutated)
        begin = time.perf_counter()
        try:
            check(load_annotations(path))
            report.parsed += 1
        except AnnotationError as error:
            report.refused += 1
            if str(path) not in str(error) or "; " not in str(error):
                report.failures.append(f"case {case}: unhelpful message: {error}")
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            report.failures.append(f"case {case}: {traceback.format_exc(limit=-4)}")
        seconds = time.perf_counter() - begin
        report.slowest = max(report.slowest, seconds)
        if seconds > SLOW_SECONDS:
            report.failures.append(f"case {case}: took {seconds:.0f} s")
        report.cases += 1
    return report


def main() -> int:
    import tempfile

    default = Path(__file__).parents[2] / "shared" / "real"
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--real_data", default=os.environ.get("TDPOSE_REAL_DATA", str(default))
    )
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = real_files(Path(flags.real_data), folder)
        report = fuzz(files, flags.cases, flags.seed, folder)
    for failure in report.failures[:20]:
        print(failure)
    print(
        f"{report.cases} cases of {len(files)} files: {report.parsed} parsed, "
        f"{report.refused} refused, {len(report.failures)} failures, slowest "
        f"{report.slowest:.2f} s"
    )
    return 1 if report.failures else 0


if __name__ == "__main__":
    sys.exit(main())
