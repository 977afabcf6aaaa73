"""Person detectors: a YOLOX network through onnxruntime, and OpenCV's HOG."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from tdpose_jax.video.poses import Boxes

# Image [H, W, 3] uint8 RGB -> the people in it.
Detector = Callable[[np.ndarray], Boxes]

STRIDES = (8, 16, 32)
PERSON_CLASS = 0  # of COCO's 80
MIN_SCORE = 0.2  # what the tracker can still use to keep a person it knows
NMS_IOU = 0.6


class DetectorError(ValueError):
    """A detector cannot be used. One line with the reason and the remedy."""


def make_detector(name: str) -> Detector:
    """`hog`, or the path of a YOLOX network.

    Raises:
      DetectorError: see the two classes.
    """
    return HogDetector() if name == "hog" else YoloxDetector(name)


class YoloxDetector:
    """YOLOX exported without its decoder: [1, cells, 5 + classes] over strides 8, 16, 32.

    Input: letterboxed to the network's size, raw BGR 0..255, grey 114 beside the picture,
    as YOLOX's own `preproc` (Megvii-BaseDetection/YOLOX, yolox/data/data_augment.py).

    Raises:
      DetectorError: if the file is no ONNX network or not of this layout.
    """

    def __init__(self, path: str | Path):
        import onnxruntime

        if not Path(path).is_file():
            raise DetectorError(
                f"--detector={path}: no such file; give an .onnx or hog"
            )
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), providers=onnxruntime.get_available_providers()
            )
        except Exception as error:  # onnxruntime's types share no base
            reason = re.sub(r"\s+", " ", str(error))[:200]
            raise DetectorError(
                f"--detector={path}: not an ONNX network ({reason})"
            ) from error
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = inputs[0].shape
        if len(inputs) != 1 or len(shape) != 4 or shape[1] != 3:
            raise DetectorError(f"--detector={path}: input {shape} is not [1, 3, H, W]")
        # A network with free sides was exported for the size it was trained at.
        self._size_hw = tuple(s if isinstance(s, int) else 640 for s in shape[2:])
        self._input = inputs[0].name
        self._grid, self._stride = _cells(self._size_hw)
        found = outputs[0].shape
        if (
            len(outputs) != 1
            or len(found) != 3
            or found[1] not in (len(self._grid), None)
            and isinstance(found[1], int)
            or (isinstance(found[2], int) and found[2] < 6)
        ):
            raise DetectorError(
                f"--detector={path}: output {found} is not YOLOX's [1, "
                f"{len(self._grid)}, 5 + classes] (exported with decode_in_inference off)"
            )

    def __call__(self, image_rgb: np.ndarray) -> Boxes:
        """Boxes of the people in an RGB image [H, W, 3] uint8."""
        blob, ratio = letterbox(image_rgb, self._size_hw)
        (output,) = self._session.run(None, {self._input: blob})
        return decode_yolox(output[0], self._grid, self._stride, ratio)


def letterbox(
    image_rgb: np.ndarray, size_hw: tuple[int, int]
) -> tuple[np.ndarray, float]:
    """[1, 3, h, w] float32 BGR with the picture at the top left, and its scale."""
    height, width = image_rgb.shape[:2]
    ratio = min(size_hw[0] / height, size_hw[1] / width)
    small_wh = (max(1, int(width * ratio)), max(1, int(height * ratio)))
    padded = np.full((*size_hw, 3), 114, np.uint8)
    padded[: small_wh[1], : small_wh[0]] = cv2.resize(image_rgb, small_wh)
    blob = padded[..., ::-1].transpose(2, 0, 1)[None]
    return np.ascontiguousarray(blob, np.float32), ratio


def _cells(size_hw: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    grids, strides = [], []
    for stride in STRIDES:
        rows, columns = size_hw[0] // stride, size_hw[1] // stride
        y, x = np.mgrid[:rows, :columns]
        grids.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full((rows * columns, 1), stride))
    return np.concatenate(grids).astype(np.float32), np.concatenate(strides)


def decode_yolox(
    output: np.ndarray, grid_xy: np.ndarray, stride: np.ndarray, ratio: float
) -> Boxes:
    """Rows (x, y, log w, log h, objectness, class scores) in cells -> people.

    Args:
      output: [cells, 5 + classes].
      grid_xy: [cells, 2] column and row of each cell; stride: [cells, 1] its pixels.
      ratio: input pixels per image pixel.
    """
    score = output[:, 4] * output[:, 5 + PERSON_CLASS]
    kept = score >= MIN_SCORE
    rows, score, stride = output[kept], score[kept], stride[kept]
    center = (rows[:, :2] + grid_xy[kept]) * stride / ratio
    size = np.exp(rows[:, 2:4]) * stride / ratio
    return suppress(np.concatenate([center - size / 2, size], 1), score)


def suppress(xywh: np.ndarray, score: np.ndarray) -> Boxes:
    """Greedy non-maximum suppression, best first."""
    rows = cv2.dnn.NMSBoxes(xywh.tolist(), score.tolist(), MIN_SCORE, NMS_IOU)
    rows = np.asarray(rows, int).reshape(-1)
    return Boxes(xywh[rows], score[rows])


class HogDetector:
    """Dalal and Triggs' upright pedestrians, as OpenCV ships them. Finds standing people
    of 100 pixels and more; far weaker than a network.

    Raises:
      DetectorError: if OpenCV was built without it (5.x keeps it in contrib).
    """

    LONG_SIDE = 800  # larger pictures are reduced: the cost grows with the area

    def __init__(self):
        if not hasattr(cv2, "HOGDescriptor"):
            raise DetectorError(
                f"--detector=hog: OpenCV {cv2.__version__} was built without HOG; "
                "install opencv-contrib-python-headless in place of "
                "opencv-python-headless, or give --detector=FILE.onnx or --boxes=FILE"
            )
        self._hog = cv2.HOGDescriptor()
        self._hog.setSVMDetector(cv2.HOGDescriptor.getDefaultPeopleDetector())

    def __call__(self, image_rgb: np.ndarray) -> Boxes:
        """Boxes of the people in an RGB image [H, W, 3] uint8."""
        height, width = image_rgb.shape[:2]
        ratio = min(1.0, self.LONG_SIDE / max(height, width))
        size = (max(1, round(width * ratio)), max(1, round(height * ratio)))
        if size[0] < 64 or size[1] < 128:  # smaller than the detector's window
            return Boxes(np.zeros((0, 4)), np.zeros(0))
        small = cv2.resize(image_rgb[..., ::-1], size, interpolation=cv2.INTER_AREA)
        boxes, weights = self._hog.detectMultiScale(
            small, hitThreshold=0.0, winStride=(8, 8), scale=1.05
        )
        if not len(boxes):
            return Boxes(np.zeros((0, 4)), np.zeros(0))
        # The margin of an SVM, not a probability: 0.5 of it is a fair detection.
        score = 1 / (1 + np.exp(-2 * (np.asarray(weights, float).ravel() - 0.5)))
        # The window has a margin around the person; OpenCV's own sample cuts as much.
        xywh = np.asarray(boxes, float) / ratio
        xywh[:, :2] += xywh[:, 2:] * (0.1, 0.07)
        xywh[:, 2:] *= 0.8
        return suppress(xywh, score)
