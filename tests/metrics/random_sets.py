"""Random crowded sets: people overlap, swap identities, vanish and are invented."""

import numpy as np

from tdpose_jax.annotations import FrameLabel, PersonLabel, SequenceLabel
from tests.metrics.golden_sets import G1_OFFSETS


def random_set(
    seed: int, num_sequences: int = 3, num_frames: int = 10, num_persons: int = 5
) -> tuple[list[SequenceLabel], list[SequenceLabel]]:
    """Ground truth and predictions without tied scores; head size 35 px."""
    rng = np.random.default_rng(seed)
    truth, guess = [], []
    for s in range(num_sequences):
        name = f"{s:06d}_random_test"
        # Within a few head sizes of each other, so that joints have several candidates.
        start = rng.uniform(500, 600, (num_persons, 2))
        frames_truth, frames_guess = [], []
        for t in range(num_frames):
            persons, predicted = [], []
            for p in range(num_persons):
                corner = start[p] + rng.normal(0, 6, 2)
                there = rng.random(17) < 0.8
                there[3:5] = False
                xyv = np.concatenate([corner + G1_OFFSETS, np.ones((17, 1))], axis=1)
                x, y = corner + (-15, -120)
                head = np.array([x, y, x + 30, y + 50])
                box = np.array([corner[0] - 60, corner[1] - 140, 120, 260])
                if rng.random() < 0.9:
                    blank = np.full(17, np.nan)
                    label = xyv * there[:, None]
                    persons.append(PersonLabel(label, blank, True, head, box, p))
                if rng.random() < 0.85:
                    xyv[:, :2] += rng.normal(0, 8, (17, 2))
                    xyv[rng.random(17) < 0.1] = 0
                    track = int(rng.permutation(num_persons)[0]) if t == 5 else p
                    predicted.append((track, PersonLabel(xyv, rng.random(17))))
            used, labels = set(), []
            for track, label in predicted:
                while track in used:
                    track += 10
                used.add(track)
                labels.append(
                    PersonLabel(label.keypoints_xyv, label.joint_scores, track_id=track)
                )
            if rng.random() < 0.1:
                labels = []
            if rng.random() < 0.1:
                persons = []
            region = ()
            if rng.random() < 0.3:
                low = rng.uniform(450, 600, 2)
                high = low + 60
                region = (np.array([low, (high[0], low[1]), high, (low[0], high[1])]),)
            image = f"images/val/{name}/{t:06d}.jpg"
            frames_truth.append(
                FrameLabel(image, t, bool(persons), tuple(persons), region)
            )
            frames_guess.append(FrameLabel(image, t, True, tuple(labels)))
        truth.append(SequenceLabel(name, "posetrack", tuple(frames_truth)))
        guess.append(SequenceLabel(name, "posetrack", tuple(frames_guess)))
    return truth, guess
