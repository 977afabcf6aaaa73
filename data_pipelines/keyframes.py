"""Evaluation input in the order of the video: keyframes with whole pictures.

Windows that share crops (`tdpose_jax.shared_windows`) need neighbouring keyframes one
after the other, while shards hold them far apart, and the frames themselves instead of
clips cut with each person's own box.
"""

import dataclasses
from collections.abc import Iterator

import cv2
import ml_collections
import numpy as np

from data_pipelines import records
from data_pipelines.split import open_split


@dataclasses.dataclass(frozen=True)
class Keyframe:
    """A labelled frame, its window and the people to be found in it.

    Attributes:
      sequence: name of its video.
      frame_numbers: of the T frames; a repeated edge has the number it repeats.
      images_rgb: the T frames, [H, W, 3] uint8; equal numbers are the same array.
      boxes_xywh: [P, 4] float32 image pixels.
      box_score: [P] float32.
      sample_ids: P times `sequence/frame/person`.
    """

    sequence: str
    frame_numbers: tuple[int, ...]
    images_rgb: tuple[np.ndarray, ...]
    boxes_xywh: np.ndarray
    box_score: np.ndarray
    sample_ids: tuple[str, ...]


class KeyframeIterator:
    """Every keyframe of a split once, by sequence and time; may be iterated again.

    Whole sequences go to one process, in turns. People whose box score does not reach
    `data.box_score_threshold` are left out, and keyframes without people.

    Attributes:
      num_examples: people over all processes.
      max_persons: most people that a process has.

    Raises:
      FileNotFoundError, ValueError: see `split.open_split`; a corrupt record.
    """

    def __init__(
        self,
        data: ml_collections.ConfigDict,
        split: str,
        process_index: int,
        process_count: int,
    ):
        self._split = open_split(data, split)
        self._threshold = np.float32(data.box_score_threshold)
        self._num_frames_built = records.num_frames(self._split.window_delta_built)
        first = self._split.window_delta_built - data.window_delta
        self._kept = slice(first, first + records.num_frames(data.window_delta))
        order: dict[str, list[tuple[int, int]]] = {}
        scores = self._split.box_score >= self._threshold
        persons: dict[str, int] = {}
        for record in range(len(self._split.length)):
            people = slice(*self._split.first_person[record : record + 2])
            if not scores[people].any():
                continue
            fields = self._parse(record)
            name = fields["sequence"].numpy().decode()
            order.setdefault(name, []).append(
                (int(fields["frame_index"].numpy()), record)
            )
            persons[name] = persons.get(name, 0) + int(scores[people].sum())
        names = sorted(order)
        shares = [names[i::process_count] for i in range(process_count)]
        self._records = [
            record
            for name in shares[process_index]
            for _, record in sorted(order[name])
        ]
        self.num_examples = sum(persons.values())
        self.max_persons = max(sum(persons[n] for n in share) for share in shares)

    def __len__(self) -> int:
        """Keyframes of this process."""
        return len(self._records)

    def _parse(self, record: int) -> dict:
        import tensorflow as tf

        return records.parse_example(
            tf.constant(self._split.read(record)),
            self._split.skeleton.num_keypoints,
            self._num_frames_built,
        )

    def __iter__(self) -> Iterator[Keyframe]:
        sequence, images = None, {}
        for record in self._records:
            fields = {
                name: value.numpy() for name, value in self._parse(record).items()
            }
            name, middle = fields["sequence"].decode(), int(fields["frame_index"])
            jpegs = fields["frames"][self._kept]
            numbers = _frame_numbers(middle, jpegs)
            if name != sequence:
                sequence, images = name, {}
            images = {n: image for n, image in images.items() if n >= numbers[0]}
            for number, jpeg in zip(numbers, jpegs, strict=True):
                if number not in images:
                    raw = np.frombuffer(jpeg, np.uint8)
                    images[number] = cv2.imdecode(raw, cv2.IMREAD_COLOR_RGB)
                    if images[number] is None:
                        raise ValueError(
                            f"{self._split.where(record)}: the JPEG of frame {number} "
                            "cannot be decoded"
                        )
            kept = fields["box_score"] >= self._threshold
            yield Keyframe(
                sequence=name,
                frame_numbers=numbers,
                images_rgb=tuple(images[n] for n in numbers),
                boxes_xywh=fields["person_box_xywh"][kept],
                box_score=fields["box_score"][kept],
                sample_ids=tuple(
                    f"{name}/{middle}/{p}" for p in fields["person_index"][kept]
                ),
            )


def _frame_numbers(middle: int, jpegs: list[bytes]) -> tuple[int, ...]:
    """Numbers of a window's frames; a frame that repeats its neighbour has its number.

    Slots are filled with the nearest frame on the way to the keyframe, so equal files
    beside each other are repetitions.
    """
    numbers = list(range(middle - len(jpegs) // 2, middle + len(jpegs) // 2 + 1))
    centre = len(jpegs) // 2
    for i in range(centre - 1, -1, -1):
        if jpegs[i] == jpegs[i + 1]:
            numbers[i] = numbers[i + 1]
    for i in range(centre + 1, len(jpegs)):
        if jpegs[i] == jpegs[i - 1]:
            numbers[i] = numbers[i - 1]
    return tuple(numbers)
