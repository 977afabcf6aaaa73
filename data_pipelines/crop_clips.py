"""A record and the people wanted from it -> their clips, each JPEG decoded once.

`ClipCropper` is one tf.data map function. TensorFlow parses and decodes, OpenCV warps:
TensorFlow's own warp costs more than the decoding (4.3 ms a crop against 0.7 ms). Only
the window that the crops need is decoded. Both release the interpreter's lock.
"""

import dataclasses
from typing import TYPE_CHECKING

import cv2
import ml_collections
import numpy as np

from data_pipelines import augment, records
from tdpose_jax.geometry import (
    apply_affine,
    box_to_window,
    image_to_crop_affine,
    invert_affine,
)
from tdpose_jax.shapes import encode_sample_ids
from tdpose_jax.skeleton import Skeleton

if TYPE_CHECKING:
    import tensorflow as tf

# Source pixels around the crop's outline: one for bilinear interpolation, the rest so
# that chroma upsampling at the window's edge equals that of the whole picture.
_MARGIN = 4


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where n clips of one record lie; all that is known before decoding.

    Attributes:
      window: [4] int32 top, left, height, width of the image part to decode.
      window_to_crop: [n, 2, 3] float64, from pixels of that part to crop pixels.
      color: [n, 3, 4] float64, or [0, 3, 4] without colour jitter.
      keypoints_xy_crop, keypoint_weight, crop_to_image, sample_id: as in `PoseBatch`.
    """

    window: np.ndarray
    window_to_crop: np.ndarray
    color: np.ndarray
    keypoints_xy_crop: np.ndarray
    keypoint_weight: np.ndarray
    crop_to_image: np.ndarray
    sample_id: np.ndarray


def source_window(
    crop_to_image: np.ndarray,
    crop_size_hw: tuple[int, int],
    image_size_hw: np.ndarray,
) -> np.ndarray:
    """[4] int32 top, left, height, width: the part of the image that all crops need.

    At least one pixel, where the crops lie outside the image altogether.

    Args:
      crop_to_image: [n, 2, 3].
    """
    height, width = crop_size_hw
    corners = np.array([[0, 0], [width, 0], [0, height], [width, height]], float) - 0.5
    points = apply_affine(crop_to_image, corners).reshape(-1, 2)
    limit = np.array([image_size_hw[1], image_size_hw[0]])
    low = np.clip(np.floor(points.min(0)) - _MARGIN, 0, limit - 1).astype(np.int32)
    high = np.clip(np.ceil(points.max(0)) + 1 + _MARGIN, low + 1, limit)
    size = high.astype(np.int32) - low
    return np.array([low[1], low[0], size[1], size[0]], np.int32)


class ClipCropper:
    """Cuts people's clips out of a record.

    Args:
      data: `config.data`.
      skeleton: of the data set.
      window_delta_built: frames to each side that the records hold.
      seed: of the augmentation; None: no augmentation (evaluation).
    """

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        skeleton: Skeleton,
        window_delta_built: int,
        seed: int | None,
    ):
        self.crop_size_hw = tuple(data.crop_size_hw)
        self.box_enlarge = data.box_enlarge
        self.num_frames = records.num_frames(data.window_delta)
        self.num_frames_built = records.num_frames(window_delta_built)
        # The built window may be longer than the wanted one: take its middle.
        first = window_delta_built - data.window_delta
        self.kept = slice(first, first + self.num_frames)
        self.skeleton = skeleton
        self.seed = seed
        self.augmentation = augment.Augmentation.from_config(data)

    def place(
        self,
        persons: np.ndarray,
        epoch: int,
        sequence: str,
        frame_index: int,
        image_size_hw: np.ndarray,
        person_index: np.ndarray,
        keypoints_xy_image: np.ndarray,
        keypoint_visible: np.ndarray,
        person_box_xywh: np.ndarray,
    ) -> Placement:
        """Draws the augmentation of n people and derives everything but the pixels.

        Args:
          persons: [n] positions in the record's list of people; the other arguments
            are the record's fields.

        Raises:
          ValueError: if a person's box has no area; the message names the person.
        """
        affines, joints, ids, colors = [], [], [], []
        for person in persons:
            sample_id = f"{sequence}/{frame_index}/{person_index[person]}"
            xy, visible = keypoints_xy_image[person], keypoint_visible[person]
            box = person_box_xywh[person]
            size = self.crop_size_hw
            try:
                window = box_to_window(box, size, self.box_enlarge)
            except ValueError as error:
                raise ValueError(f"person {sample_id}: {error}") from error
            if self.seed is not None:
                draw = augment.draw_clip(self.seed, epoch, sample_id)
                window = augment.augmented_window(
                    draw, self.augmentation, self.skeleton, window, xy, visible, size
                )
                if self.augmentation.color_jitter:
                    colors.append(
                        augment.color_matrix(draw, self.augmentation.color_jitter)
                    )
            affine = image_to_crop_affine(window, size)
            affines.append(affine)
            joints.append(
                augment.crop_keypoints(
                    affine, window.flip, xy, visible, self.skeleton, size
                )
            )
            ids.append(sample_id)
        image_to_crop = np.stack(affines)
        crop_to_image = invert_affine(image_to_crop)
        window = source_window(crop_to_image, self.crop_size_hw, image_size_hw)
        window_to_crop = image_to_crop.copy()
        window_to_crop[..., 2] += image_to_crop[..., :2] @ window[[1, 0]]
        return Placement(
            window=window,
            window_to_crop=window_to_crop,
            color=np.array(colors, np.float64).reshape(-1, 3, 4),
            keypoints_xy_crop=np.stack([xy for xy, _ in joints]),
            keypoint_weight=np.stack([weight for _, weight in joints]),
            crop_to_image=crop_to_image.astype(np.float32),
            sample_id=encode_sample_ids(ids),
        )

    def warp(
        self, window_to_crop: np.ndarray, color: np.ndarray, *images: np.ndarray
    ) -> np.ndarray:
        """[n, T, H, W, 3] uint8: every image seen through each of the n affines.

        Bilinear, black outside the picture, as the HRNet family does.
        """
        height, width = self.crop_size_hw
        out = np.empty((len(window_to_crop), len(images), height, width, 3), np.uint8)
        # OpenCV's warp has a fast path for four channels: with both conversions 0.5 ms
        # a frame, against 1.2 ms for three channels; the same bits.
        rgba, warped = None, np.empty((height, width, 4), np.uint8)
        for t, image in enumerate(images):
            rgba = cv2.cvtColor(image, cv2.COLOR_RGB2RGBA, dst=rgba)
            for clip, affine in zip(out, window_to_crop, strict=True):
                cv2.warpAffine(rgba, affine, (width, height), dst=warped)
                cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB, dst=clip[t])
        for clip, matrix in zip(out, color, strict=False):  # none without jitter
            for frame in clip:
                cv2.transform(frame, matrix, dst=frame)
        return out

    def __call__(
        self, serialized: "tf.Tensor", persons: "tf.Tensor", epoch: "tf.Tensor"
    ) -> dict[str, "tf.Tensor"]:
        """Clips of some people of a record; runs in a tf.data graph or eagerly.

        Args:
          serialized: scalar string, the record.
          persons: [n] int64 positions in the record's list of people.
          epoch: scalar int64.

        Returns:
          The fields of `PoseBatch` with B = n, but for `example_is_real`.

        Raises:
          tf.errors.InvalidArgumentError: if the record, a JPEG or a box is unusable.
        """
        import tensorflow as tf

        # Parallel over records instead; threads inside an operation would compete.
        cv2.setNumThreads(1)
        record = records.parse_example(
            serialized, self.skeleton.num_keypoints, self.num_frames_built
        )

        def place(persons, epoch, sequence, *fields):
            sequence = np.asarray(sequence).item().decode()  # bytes, or eagerly 0-d
            p = self.place(persons, int(epoch), sequence, *fields)
            return tuple(getattr(p, f.name) for f in dataclasses.fields(Placement))

        types = (tf.int32, tf.float64, tf.float64, *[tf.float32] * 3, tf.uint8)
        window, window_to_crop, color, xy, weight, crop_to_image, ids = (
            tf.numpy_function(
                place,
                [
                    persons,
                    epoch,
                    record["sequence"],
                    record["frame_index"],
                    record["image_size_hw"],
                    record["person_index"],
                    record["keypoints_xy_image"],
                    record["keypoint_visible"],
                    record["person_box_xywh"],
                ],
                types,
            )
        )
        images = []
        jpegs = record["frames"][self.kept]
        for t in range(self.num_frames):
            # INTEGER_ACCURATE equals OpenCV's decoding bit for bit; TensorFlow's default
            # differs by up to 8 levels and is not faster.
            def decode(t=t):
                return tf.io.decode_and_crop_jpeg(
                    jpegs[t], window, channels=3, dct_method="INTEGER_ACCURATE"
                )

            if t == 0:
                images.append(decode())
            else:  # a sequence's edge repeats its frame
                same = jpegs[t] == jpegs[t - 1]
                images.append(tf.cond(same, lambda t=t: images[t - 1], decode))
        frames = tf.numpy_function(
            self.warp, [window_to_crop, color, *images], tf.uint8
        )
        is_real = tf.cast(record["frame_is_real"][self.kept], tf.bool)
        return {
            "frames": frames,
            "keypoints_xy_crop": xy,
            "keypoint_weight": weight,
            "crop_to_image": crop_to_image,
            "frame_is_real": tf.repeat(is_real[None], tf.shape(persons)[0], axis=0),
            "box_score": tf.gather(record["box_score"], persons),
            "sample_id": ids,
        }
