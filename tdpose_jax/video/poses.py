"""What the video tools pass to each other: the people of one frame."""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class FramePoses:
    """P people of one frame, numpy on the host. All coordinates are image pixels.

    Attributes:
      index: of the frame in its source, from 0.
      time_s: of the frame.
      name: `<source>/<file name>` of the frame.
      image_size_hw: of the frame.
      track_id: [P] int64, the person's identity over the video; -1 before tracking.
      keypoints_xy_image: [P, K, 2] float32.
      keypoint_score: [P, K] float32, the peaks of the heatmaps.
      person_box_xywh: [P, 4] float32, the box the person was cropped with.
      box_score: [P] float32, the detector's confidence; 1 where a file gives none.
      motion: name -> [P, h, w] uint8, mean absolute motion features of the crop, 255 the
        frame's largest; empty if the model has none.
      image_id: the box file's id of the frame, or index + 1.
    """

    index: int
    time_s: float
    name: str
    image_size_hw: tuple[int, int]
    track_id: np.ndarray
    keypoints_xy_image: np.ndarray
    keypoint_score: np.ndarray
    person_box_xywh: np.ndarray
    box_score: np.ndarray
    motion: dict[str, np.ndarray]
    image_id: int

    def __len__(self) -> int:
        return len(self.track_id)

    def select(self, rows: np.ndarray, track_id: np.ndarray) -> "FramePoses":
        """The people of some rows, with their identities."""
        return dataclasses.replace(
            self,
            track_id=np.asarray(track_id, np.int64),
            keypoints_xy_image=self.keypoints_xy_image[rows],
            keypoint_score=self.keypoint_score[rows],
            person_box_xywh=self.person_box_xywh[rows],
            box_score=self.box_score[rows],
            motion={name: maps[rows] for name, maps in self.motion.items()},
        )


@dataclasses.dataclass(frozen=True)
class Boxes:
    """People found in one frame.

    Attributes:
      xywh: [P, 4] left, top, width, height; image pixels.
      score: [P], 0..1.
      track_id: [P] int64 if their source knows identities, else None.
      image_id: the source's id of the frame, or None.
    """

    xywh: np.ndarray
    score: np.ndarray
    track_id: np.ndarray | None = None
    image_id: int | None = None

    def __post_init__(self):
        xywh = np.asarray(self.xywh, np.float32).reshape(-1, 4)
        score = np.asarray(self.score, np.float32).reshape(-1)
        # A box without area has no crop.
        kept = np.isfinite(xywh).all(1) & (xywh[:, 2:] > 0).all(1)
        object.__setattr__(self, "xywh", xywh[kept])
        object.__setattr__(self, "score", score[kept])
        if self.track_id is not None:
            ids = np.asarray(self.track_id, np.int64).reshape(-1)
            object.__setattr__(self, "track_id", ids[kept])
