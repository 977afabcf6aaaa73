"""Identities: people of one frame matched to the people of the frames before.

Similarity is the mean of box IoU and OKS (COCO's keypoint similarity), both after moving
the known person on at its last velocity. Assignment is optimal (Hungarian) in three
rounds: confident people to present tracks; unconfident ones to tracks still unmatched
(ByteTrack, Zhang et al. 2022: a person half hidden is detected weakly, not not at all);
confident ones left to tracks lost for a while, by distance and size. No appearance is
used, so people who swap places out of sight swap identities.
"""

import dataclasses

import numpy as np
from scipy.optimize import linear_sum_assignment

from tdpose_jax.geometry import box_iou_xywh
from tdpose_jax.skeleton import Skeleton
from tdpose_jax.video.poses import FramePoses

# COCO's per-joint standard deviations; trunk-like joints of other skeletons take the
# shoulder's (cocodataset.org/#keypoints-eval).
_SIGMAS = {
    "nose": 0.026,
    "eye": 0.025,
    "ear": 0.035,
    "shoulder": 0.079,
    "elbow": 0.072,
    "wrist": 0.062,
    "hip": 0.107,
    "knee": 0.087,
    "ankle": 0.089,
}
_OTHER_SIGMA = 0.079
_TOO_FAR = 1e6  # cost of a pair that may not be matched


def joint_sigmas(skeleton: Skeleton) -> np.ndarray:
    """[K] COCO's standard deviations by the last word of a joint's name."""
    parts = [joint.rsplit("_", 1)[-1] for joint in skeleton.joints]
    return np.array([_SIGMAS.get(part, _OTHER_SIGMA) for part in parts])


def object_keypoint_similarity(
    xy_a: np.ndarray,
    valid_a: np.ndarray,
    area_a: np.ndarray,
    xy_b: np.ndarray,
    valid_b: np.ndarray,
    sigmas: np.ndarray,
) -> np.ndarray:
    """[N, M] OKS of every pair, over joints valid in both; NaN without any.

    Args:
      xy_a: [N, K, 2]; valid_a: [N, K]; area_a: [N] box areas, square pixels.
      xy_b: [M, K, 2]; valid_b: [M, K].
    """
    squared = ((xy_a[:, None] - xy_b[None]) ** 2).sum(-1)
    scale = np.maximum(area_a, 1e-9)[:, None, None] * (2 * sigmas) ** 2
    both = valid_a[:, None] & valid_b[None]
    total = np.where(both, np.exp(-squared / (2 * scale)), 0.0).sum(-1)
    count = both.sum(-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


@dataclasses.dataclass
class _Track:
    identity: int
    box: np.ndarray  # [4] xywh
    xy: np.ndarray  # [K, 2]
    valid: np.ndarray  # [K]
    velocity: np.ndarray  # [2] pixels per frame, of the box centre
    index: int  # frame last seen in


@dataclasses.dataclass
class Tracker:
    """Gives people identities, frame by frame; equal input gives equal output.

    Its state follows from finished frames alone (`restore`), so that a run can be
    continued.

    Attributes:
      skeleton: of the poses.
      frame_step: source frames between two updates.
      new_score: a person of this box score or more may start a track.
      min_similarity: of confident people; `min_weak_similarity` of weak ones and of those
        who match a track lost for a while.
      max_gap: a track is given up after so many source frames unseen (4 s at 25 per
        second: people pass behind others for so long).
      joint_score: keypoints below count as unseen.
    """

    skeleton: Skeleton
    frame_step: int = 1
    new_score: float = 0.45
    min_similarity: float = 0.15
    min_weak_similarity: float = 0.35
    max_gap: int = 100
    joint_score: float = 0.2

    def __post_init__(self):
        self._tracks: list[_Track] = []
        self._next_identity = 0
        self._sigmas = joint_sigmas(self.skeleton)

    @property
    def num_tracks(self) -> int:
        """Tracks in memory; those given up are forgotten."""
        return len(self._tracks)

    def update(self, people: FramePoses) -> FramePoses:
        """The people of the next frame, with identities, in the order of these.

        Weak people without a track and doubles of others are left out.
        """
        self._forget(people.index)
        identity = np.full(len(people), -1, np.int64)
        strong = people.box_score >= self.new_score
        boxes = people.person_box_xywh.astype(np.float64)
        xy = people.keypoints_xy_image.astype(np.float64)
        valid = people.keypoint_score >= self.joint_score
        recent = [
            i
            for i, t in enumerate(self._tracks)
            if people.index - t.index <= 2 * self.frame_step
        ]
        taken: set[int] = set()

        def assign(rows, tracks, similarity, least):
            rows = [r for r in rows if identity[r] < 0]
            tracks = [t for t in tracks if t not in taken]
            if not rows or not tracks:
                return
            value = similarity([self._tracks[t] for t in tracks], rows)
            allowed = value >= least
            pairs = linear_sum_assignment(np.where(allowed, 1 - value, _TOO_FAR))
            for t, r in zip(*pairs, strict=True):
                if allowed[t, r]:
                    identity[rows[r]] = self._tracks[tracks[t]].identity
                    taken.add(tracks[t])

        def overlap(tracks, rows):
            return self._overlap(
                tracks, boxes[rows], xy[rows], valid[rows], people.index
            )

        everyone, all_tracks = range(len(people)), range(len(self._tracks))
        assign(np.flatnonzero(strong), recent, overlap, self.min_similarity)
        assign(everyone, recent, overlap, self.min_weak_similarity)
        # A second box of somebody must not wake a lost track either.
        for row in np.flatnonzero(strong & (identity < 0)):
            strong[row] = not self._is_double(row, identity, boxes, xy, valid)
        assign(np.flatnonzero(strong), all_tracks, overlap, self.min_weak_similarity)
        assign(
            np.flatnonzero(strong),
            all_tracks,
            lambda tracks, rows: self._nearness(tracks, boxes[rows], people.index),
            0.5,
        )
        for row in np.flatnonzero(strong & (identity < 0)):
            if not self._is_double(row, identity, boxes, xy, valid):
                identity[row] = self._next_identity
                self._next_identity += 1
        kept = np.flatnonzero(identity >= 0)
        tracked = people.select(kept, identity[kept])
        self._remember(tracked)
        return tracked

    def restore(self, finished: FramePoses) -> None:
        """Takes over a frame that `update` has returned in an earlier run."""
        self._forget(finished.index)
        self._remember(finished)

    def _forget(self, index: int) -> None:
        limit = max(self.max_gap, 2 * self.frame_step)
        self._tracks = [t for t in self._tracks if index - t.index <= limit]

    def _remember(self, people: FramePoses) -> None:
        known = {t.identity: t for t in self._tracks}
        for row, identity in enumerate(people.track_id.tolist()):
            box = people.person_box_xywh[row].astype(np.float64)
            velocity = np.zeros(2)
            if identity in known:
                old = known[identity]
                moved = (box[:2] + box[2:] / 2) - (old.box[:2] + old.box[2:] / 2)
                # Half of the old: detectors' boxes jitter.
                step = moved / max(1, people.index - old.index)
                velocity = 0.5 * old.velocity + 0.5 * step
            known[identity] = _Track(
                identity,
                box,
                people.keypoints_xy_image[row].astype(np.float64),
                people.keypoint_score[row] >= self.joint_score,
                velocity,
                people.index,
            )
            self._next_identity = max(self._next_identity, identity + 1)
        self._tracks = sorted(known.values(), key=lambda t: t.identity)

    def _moves(self, tracks: list[_Track], index: int) -> np.ndarray:
        """[N, 2] where tracks have gone since; a velocity is good for a few frames."""
        gaps = np.array([index - t.index for t in tracks])
        steps = np.minimum(gaps, 5 * self.frame_step)
        return np.array([t.velocity for t in tracks]) * steps[:, None]

    def _overlap(self, tracks, boxes, xy, valid, index) -> np.ndarray:
        move = self._moves(tracks, index)
        track_boxes = np.array([t.box for t in tracks])
        track_boxes[:, :2] += move
        iou = box_iou_xywh(track_boxes, boxes)
        oks = object_keypoint_similarity(
            np.array([t.xy for t in tracks]) + move[:, None],
            np.array([t.valid for t in tracks]),
            track_boxes[:, 2:].prod(-1),
            xy,
            valid,
            self._sigmas,
        )
        return np.where(np.isnan(oks), iou, (iou + oks) / 2)

    def _nearness(self, tracks, boxes, index) -> np.ndarray:
        """[N, M] 1 at the same place and size; 0.5 about a body's size away."""
        old = np.array([t.box for t in tracks])
        centers = old[:, :2] + old[:, 2:] / 2 + self._moves(tracks, index)
        distance = np.linalg.norm(
            centers[:, None] - (boxes[:, :2] + boxes[:, 2:] / 2)[None], axis=-1
        )
        size_a, size_b = np.sqrt(old[:, 2:].prod(-1)), np.sqrt(boxes[:, 2:].prod(-1))
        ratio = np.minimum(size_a[:, None], size_b) / np.maximum(
            size_a[:, None], size_b
        )
        nearness = np.exp2(-distance / np.maximum(size_a, 1e-9)[:, None])
        return np.where(ratio >= 0.5, nearness, 0.0)

    def _is_double(self, row, identity, boxes, xy, valid) -> bool:
        """Whether a person of this frame with an identity has the same pose.

        A second box around a part of somebody gives nearly the same joints: OKS 0.8 to
        1.0 at a box IoU of only 0.35 to 0.6, so boxes alone do not show it.
        """
        others = np.flatnonzero(identity >= 0)
        if not len(others):
            return False
        area = np.maximum(boxes[others, 2:].prod(-1), boxes[row, 2:].prod())
        oks = object_keypoint_similarity(
            xy[others], valid[others], area, xy[[row]], valid[[row]], self._sigmas
        )[:, 0]
        iou = box_iou_xywh(boxes[others], boxes[[row]])[:, 0]
        same = np.where(np.isnan(oks), iou > 0.7, (oks > 0.8) & (iou > 0.2))
        return bool(same.any())


def keep_file_identities(people: FramePoses, track_id: np.ndarray) -> FramePoses:
    """People whose boxes came with identities."""
    return people.select(np.arange(len(people)), track_id)
