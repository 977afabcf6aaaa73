"""Time and memory to score a set of PoseTrack18-val size.

    python -m benchmarks.metrics_speed [--sequences=170] [--frames=8923] [--persons=6]

Generates ground truth and predictions (170 sequences, 8,923 labelled frames, 6 persons in
each), writes them as PoseTrack18 JSON, and measures loading (2 processes) and scoring (AP +
MOTA) apart. Peak memory is that of the main process plus the largest worker's, times the
number of workers. There is no peer to time beside it: poseval is on no package registry,
so the peer of a row is this project's own limit.
"""

import argparse
import multiprocessing
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import scipy

from benchmarks import common
from tdpose_jax.annotations import (
    FrameLabel,
    PersonLabel,
    SequenceLabel,
    save_posetrack18,
)
from tdpose_jax.metrics.protocols import score_packed
from tdpose_jax.metrics.score import load_folders

PROCESSES = 2
LIMITS = {
    "score_ap_mota": (3.0, "s"),
    "load_and_score": (10.0, "s"),
    "peak_memory": (1500.0, "MB"),
}
# A standing person: joint offsets in the slots of the PoseTrack skeleton, pixels.
_BODY = np.array(
    [(0, -90), (0, -70), (0, -115), (0, 0), (0, 0), (-25, -60), (25, -60), (-40, -30)]
    + [(40, -30), (-45, 0), (45, 0), (-15, 0), (15, 0), (-17, 45), (17, 45), (-18, 90)]
    + [(18, 90)],
    dtype=np.float64,
)


def make_sequence(
    name: str, num_frames: int, num_persons: int, rng: np.random.Generator
) -> tuple[SequenceLabel, SequenceLabel]:
    """People who walk past each other; predictions err, miss, invent and switch."""
    start = rng.uniform((100, 300), (1800, 700), (num_persons, 2))
    speed = rng.normal(0, 6, (num_persons, 2))
    seen = np.ones(17)
    seen[3:5] = 0
    truth, guess = [], []
    for t in range(num_frames):
        corner = start + speed * t
        persons, predicted = [], []
        for p in range(num_persons):
            labeled = seen * (rng.random(17) < 0.9)
            xy = corner[p] + _BODY
            xyv = np.concatenate([xy, labeled[:, None]], axis=1) * labeled[:, None]
            x, y = corner[p] + (-15, -120)
            box = np.array([x - 60, y - 20, 180, 260])
            head = np.array([x, y, x + 30, y + 50])
            blank = np.full(17, np.nan)
            persons.append(PersonLabel(xyv, blank, True, head, box, p))
            if rng.random() < 0.05:
                continue
            noise = rng.normal(0, 9, (17, 2))
            if rng.random() < 0.05:  # a detection that hit nobody
                noise += rng.uniform(-400, 400, 2)
            xyv = np.concatenate([xy + noise, np.ones((17, 1))], axis=1)
            track = p + 100 * int(rng.random() < 0.02)
            predicted.append(
                PersonLabel(xyv, rng.random(17), True, None, box, track, rng.random())
            )
        image, image_id = f"images/val/{name}/{t:06d}.jpg", 10**10 + t
        region = ()
        if rng.random() < 0.3:
            low, high = (a := rng.uniform(0, 900, 2)), a + rng.uniform(50, 400, 2)
            region = (np.array([low, (high[0], low[1]), high, (low[0], high[1])]),)
        truth.append(FrameLabel(image, image_id, True, tuple(persons), region))
        guess.append(FrameLabel(image, image_id, True, tuple(predicted)))
    return (
        SequenceLabel(name, "posetrack", tuple(truth)),
        SequenceLabel(name, "posetrack", tuple(guess)),
    )


def write_set(folder: Path, sequences: int, frames: int, persons: int) -> int:
    """Writes both folders and returns their size in bytes."""
    rng = np.random.default_rng(0)
    for kind in ("ground_truth", "predictions"):
        (folder / kind).mkdir()
    lengths = np.diff(np.linspace(0, frames, sequences + 1).astype(int))
    for i, length in enumerate(lengths):
        name = f"{i:06d}_mpii_test"
        truth, guess = make_sequence(name, int(length), persons, rng)
        save_posetrack18(truth, folder / "ground_truth" / f"{name}.json")
        save_posetrack18(guess, folder / "predictions" / f"{name}.json")
    return sum(path.stat().st_size for path in folder.glob("*/*.json"))


def measure(folder: Path, repeats: int) -> dict[str, float]:
    """Best of `repeats`, seconds and MB; and the processor seconds of one repeat.

    Processor time says what a busy machine's wall time would be on an idle one.
    """
    load, scoring = [], []
    for _ in range(repeats):
        begin = time.perf_counter()
        data, _ = load_folders(
            folder / "ground_truth", folder / "predictions", "poseval", PROCESSES
        )
        middle = time.perf_counter()
        result = score_packed(data, "poseval")
        load.append(middle - begin)
        scoring.append(time.perf_counter() - middle)
    used = [
        resource.getrusage(who)
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    ]
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    worker = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(
        f"AP {result['AP']['total']:.3f}  MOTA {result['MOTA']['total']:.3f}  over "
        f"{result['num_frames']} frames of {result['num_sequences']} sequences"
    )
    return {
        "score_ap_mota": min(scoring),
        "load_and_score": min(a + b for a, b in zip(load, scoring, strict=True)),
        "cpu_s": sum(u.ru_utime + u.ru_stime for u in used) / repeats,
        "peak_memory": (own + PROCESSES * worker) / 1024,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sequences", type=int, default=170)
    parser.add_argument("--frames", type=int, default=8923)
    parser.add_argument("--persons", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        size = write_set(Path(name), flags.sequences, flags.frames, flags.persons)
        print(f"{size / 1e6:.0f} MB of JSON")
        # Generating used memory of its own: measure in a fresh process.
        measured = _in_fresh_process(Path(name), flags.rounds)
    details = {
        "peer_is": "the limit",
        "scipy": scipy.__version__,
        "processes": PROCESSES,
        "cpu_s_of_load_and_score": round(measured["cpu_s"], 2),
        "json_mb": round(size / 1e6, 1),
        "sequences": flags.sequences,
        "frames": flags.frames,
        "persons_per_frame": flags.persons,
    }
    rows = [
        common.Row(
            name=f"metrics_{key}",
            ratio=limit / measured[key],
            target=1.0,
            ours=measured[key],
            peer=limit,
            unit=unit,
            environment=common.environment(**details),
        )
        for key, (limit, unit) in LIMITS.items()
    ]
    common.report("Metrics on a set of PoseTrack18-val size", rows)


def _in_fresh_process(folder: Path, repeats: int) -> dict[str, float]:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(measure, folder, repeats).result()


if __name__ == "__main__":
    main()
