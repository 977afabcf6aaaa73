"""Poses from arrays and from videos.

est = PoseEstimator.load("runs/posetrack17")
for people in est.track("video.mp4"):
    people.track_id, people.keypoints_xy_image, people.keypoint_score
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import jax
import numpy as np

from tdpose_jax import heatmaps as hm
from tdpose_jax.backends import MOTION, Backend, make_backend
from tdpose_jax.geometry import box_to_window, image_to_crop_affine, invert_affine
from tdpose_jax.shared_windows import (
    SharedWindow,
    WindowSharing,
    decode_shared,
    merge_flipped,
)
from tdpose_jax.skeleton import Skeleton
from tdpose_jax.video.box_files import BoxFile, load_box_file
from tdpose_jax.video.decode import Frame, Source, open_source
from tdpose_jax.video.detect import Detector, make_detector
from tdpose_jax.video.loaded_model import LoadedModel, load_model
from tdpose_jax.video.poses import Boxes, FramePoses
from tdpose_jax.video.stream import PoseStream
from tdpose_jax.video.track import Tracker, keep_file_identities


@dataclasses.dataclass
class PoseEstimator:
    """A network ready for pictures. `PoseEstimator.load` makes one.

    Attributes:
      loaded: the network, its joints, crop size and window.
      backend: clips in, heatmaps out.
      batch_size: people per call of the network; the last call is filled up.
      share_tolerance: None: each window has its own crop. Else neighbouring windows of
        a person share crops that fit this well (`shared_windows`); only networks that
        look at windows, and only where frames come one after the other.
    """

    loaded: LoadedModel
    backend: Backend
    batch_size: int = 8
    share_tolerance: float | None = None

    @classmethod
    def load(
        cls,
        path: str | Path,
        batch_size: int = 8,
        which: str = "best",
        backend: str = "jax",
        share_tolerance: float | None = None,
    ) -> "PoseEstimator":
        """From a run folder, an imported backbone, or TinyPose's .npz.

        Args:
          which: "best" or "latest" checkpoint of a run.
          backend: one of `backends.BACKENDS`.

        Raises:
          ValueError: naming the path and what is wrong with it; a backend that cannot
            run here.
        """
        loaded = load_model(path, which)
        network = make_backend(
            backend,
            loaded.model,
            loaded.variables,
            loaded.fields,
            loaded.crop_size_hw,
        )
        return cls(loaded, network, batch_size, share_tolerance)

    @property
    def skeleton(self) -> Skeleton:
        """Names and order of the joints that are predicted."""
        return self.loaded.skeleton

    @property
    def window_delta(self) -> int:
        """Supporting frames on each side of the keyframe; 0: single-frame network."""
        return self.loaded.window_delta

    def crop(
        self, images_rgb: Sequence[np.ndarray], box_xywh: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One person out of consecutive frames, all with the same box.

        Args:
          images_rgb: T frames [H, W, 3] uint8.
          box_xywh: [4] image pixels.

        Returns:
          clip [T, crop H, crop W, 3] uint8 and crop_to_image [2, 3].
        """
        size = self.loaded.crop_size_hw
        window = box_to_window(box_xywh, size, self.loaded.box_enlarge)
        affine = image_to_crop_affine(window, size)
        clip = np.stack(
            [cv2.warpAffine(image, affine, size[::-1]) for image in images_rgb]
        )
        return clip, invert_affine(affine)

    def run_crops(
        self, clips: np.ndarray, crop_to_image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """At most `batch_size` clips -> joints.

        Args:
          clips: [B, T, crop H, crop W, 3] uint8; crop_to_image: [B, 2, 3].

        Returns:
          keypoints_xy_image [B, K, 2] float32, keypoint_score [B, K] float32, and
          motion maps name -> [B, h, w] float32.
        """
        count = len(clips)
        padded = np.zeros((self.batch_size, *clips.shape[1:]), np.uint8)
        padded[:count] = clips
        out = dict(self.backend(padded))
        flip = self._flip_permutation
        if flip is not None:
            mirrored = self.backend(padded[..., ::-1, :])["heatmaps"]
            out["heatmaps"] = merge_flipped(out["heatmaps"], mirrored, flip)
        return self._joints(
            {name: values[:count] for name, values in out.items()}, crop_to_image
        )

    def share_windows(self) -> WindowSharing | None:
        """What makes windows that share crops, for one video; None if they do not."""
        if self.share_tolerance is None or not self.window_delta:
            return None
        return WindowSharing(
            self.backend.encode_frames,
            self.loaded.crop_size_hw,
            self.loaded.box_enlarge,
            self.share_tolerance,
            self.batch_size,
            self.loaded.flip_test,
        )

    def run_windows(
        self, windows: Sequence[SharedWindow]
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """At most `batch_size` encoded windows -> joints, as `run_crops`."""
        out = decode_shared(
            self.backend, windows, self.batch_size, self._flip_permutation
        )
        return self._joints(out, np.stack([w.crop_to_image for w in windows]))

    @property
    def _flip_permutation(self) -> Sequence[int] | None:
        return self.skeleton.flip_permutation if self.loaded.flip_test else None

    def _joints(
        self, out: dict[str, np.ndarray], crop_to_image: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        xy, score = _decode(out["heatmaps"], self.loaded.decoder)
        xy = np.asarray(hm.heatmap_to_crop(xy), np.float64)
        affine = np.asarray(crop_to_image)
        xy = np.einsum("bij,bkj->bki", affine[..., :2], xy) + affine[:, None, :, 2]
        motion = {name: out[name] for name in MOTION if name in out}
        return xy.astype(np.float32), np.asarray(score, np.float32), motion

    def predict(
        self, frames: Sequence[np.ndarray], boxes: Sequence[np.ndarray]
    ) -> list[FramePoses]:
        """Consecutive frames of one video and the boxes of each, without tracking.

        Args:
          frames: N frames [H, W, 3] uint8 RGB; beyond the ends the nearest is repeated.
          boxes: N arrays [P, 4], left, top, width, height in image pixels; P may be 0.

        Returns:
          N results, people in the order of the boxes, `track_id` -1.

        Raises:
          ValueError: for a wrong shape, type or a box without area.
        """
        if len(frames) != len(boxes):
            raise ValueError(f"{len(frames)} frames but {len(boxes)} lists of boxes")
        packed = []
        for i, (image, xywh) in enumerate(zip(frames, boxes, strict=True)):
            if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
                raise ValueError(
                    f"frame {i} is {image.dtype} {image.shape}, expected uint8 [H, W, 3]"
                )
            given = np.asarray(xywh, np.float32).reshape(-1, 4)
            packed.append(Boxes(given, np.ones(len(given))))
            if len(packed[-1].xywh) != len(given):
                raise ValueError(f"frame {i} has a box without area")
        sources = (
            Frame(i, i / 25.0, f"frames/{i:06d}.jpg", None, image)
            for i, image in enumerate(frames)
        )
        return list(PoseStream(self, lambda frame: packed[frame.index]).run(sources))

    def predict_clips(
        self, clips: np.ndarray, boxes_xywh: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """One person per clip, for those who cut windows themselves.

        Args:
          clips: [B, T, H, W, 3] uint8 RGB, whole frames, T = 2 * window_delta + 1.
          boxes_xywh: [B, 4] of the middle frame, image pixels.

        Returns:
          keypoints_xy_image [B, K, 2] float32 and keypoint_score [B, K] float32.

        Raises:
          ValueError: for a wrong T or a box without area.
        """
        length = 2 * self.window_delta + 1
        if clips.ndim != 5 or clips.shape[1] != length:
            raise ValueError(
                f"clips are {clips.shape}, expected [B, {length}, H, W, 3] for this "
                "network's window"
            )
        xy, score = [], []
        for start in range(0, len(clips), self.batch_size):
            rows = slice(start, start + self.batch_size)
            crops = [
                self.crop(clip, box)
                for clip, box in zip(clips[rows], boxes_xywh[rows], strict=True)
            ]
            result = self.run_crops(
                *(np.stack(part) for part in zip(*crops, strict=True))
            )
            xy.append(result[0])
            score.append(result[1])
        num_keypoints = self.skeleton.num_keypoints
        if not xy:
            return np.zeros((0, num_keypoints, 2), np.float32), np.zeros(
                (0, num_keypoints), np.float32
            )
        return np.concatenate(xy), np.concatenate(score)

    def track(
        self,
        video: str | Path | Source,
        boxes: str | Path | BoxFile | None = None,
        detector: str | Detector = "hog",
        start: int = 0,
        end: int | None = None,
        every: int = 1,
        tracker: Tracker | None = None,
    ) -> Iterator[FramePoses]:
        """Frame by frame in constant memory; people carry identities.

        Args:
          video: a video file or a folder of images.
          boxes: a file of boxes (see `box_files`), instead of a detector.
          detector: `hog`, a YOLOX .onnx, or a function image -> `Boxes`.
          start, end: range of frame numbers, end exclusive; None: to the last.
          every: look at each n-th frame. Windows are cut from all frames regardless.
          tracker: a `Tracker` to continue with.

        Raises:
          ValueError: for a source, box file or detector that cannot be used. Boxes of
            other frames are no error: those frames have no people.
        """
        source = video if isinstance(video, Source) else open_source(video)
        of_folder = source.image_names is not None
        tracker = tracker or Tracker(self.skeleton, frame_step=every)
        identities: dict[int, np.ndarray | None] = {}
        if boxes is not None:
            box_file = boxes if isinstance(boxes, BoxFile) else load_box_file(boxes)

            def find(frame: Frame) -> Boxes:
                return box_file(frame, of_folder)
        else:
            detect = make_detector(detector) if isinstance(detector, str) else detector

            def find(frame: Frame) -> Boxes:
                return detect(frame.image_rgb)

        def find_and_note(frame: Frame) -> Boxes:
            found = find(frame)
            identities[frame.index] = found.track_id
            return found

        stream = PoseStream(self, find_and_note)
        for people in stream.run(source.frames(), start, end, every):
            known = identities.pop(people.index)
            if known is None:
                yield tracker.update(people)
            else:
                yield keep_file_identities(people, known)


@jax.jit(static_argnums=1)
def _decode(maps, decoder):
    return hm.decode_heatmaps(maps, decoder)
