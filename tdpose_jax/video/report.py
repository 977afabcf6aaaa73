"""One HTML file that shows a run: video, skeletons, plots, motion, settings.

Needs no server and no network. Longer videos are thinned, and the page says so.
"""

import base64
import html
import json
import math
import os
from collections.abc import Iterator
from pathlib import Path

from tdpose_jax.skeleton import Skeleton
from tdpose_jax.video.journal import Frames
from tdpose_jax.video.outputs import whole_file
from tdpose_jax.video.poses import FramePoses
from tdpose_jax.video.render import MIN_JOINT_SCORE, PALETTE
from tdpose_jax.visualize import limb_color

TEMPLATE = Path(__file__).with_name("report_template.html")
# What a browser still opens without a pause; about 30 MB of each.
MAX_EMBEDDED_VIDEO_BYTES = 24_000_000
MAX_PEOPLE = 100_000  # people in frames, all frames together
MAX_MOTION_PEOPLE = 15_000


def save_report(
    frames: Frames,
    skeleton: Skeleton,
    preview: Path,
    path: Path,
    title: str,
    settings: dict[str, str],
    why_no_motion: str,
) -> None:
    """Writes the page.

    Args:
      preview: the video to show. It is put into the page and removed if it is small
        enough; otherwise it stays beside the page, which then needs it.
      settings: rows of the page's table.
      why_no_motion: what the page says if no frame has motion maps.
    """
    num_frames = num_people = 0
    image_size_hw, has_motion = (1, 1), False
    for people in frames():
        if not num_frames:
            image_size_hw = people.image_size_hw
        num_frames += 1
        num_people += len(people)
        has_motion |= bool(people.motion)
    stride = max(1, math.ceil(num_people / MAX_PEOPLE))
    motion_stride = stride * max(1, math.ceil(num_people / stride / MAX_MOTION_PEOPLE))
    embedded = preview.stat().st_size <= MAX_EMBEDDED_VIDEO_BYTES
    notes = []
    if stride > 1:
        notes.append(f"Every {stride}th frame of a long video is shown.")
    if has_motion and motion_stride > 1:
        notes.append(f"Motion is kept for every {motion_stride}th frame.")
    if not embedded:
        notes.append(f"The video is too long to be inside: keep {preview.name} beside.")
    head = {
        "joints": list(skeleton.joints),
        "evaluated": list(skeleton.evaluated),
        "limbs": [
            [a, b, limb_color(skeleton, (a, b))]
            for a, b in skeleton.limbs
            if {a, b} <= set(skeleton.evaluated)
        ],
        "palette": list(PALETTE),
        "minScore": MIN_JOINT_SCORE,
        "size": list(image_size_hw),
        "whyNoMotion": "" if has_motion else why_no_motion,
        "video": "" if embedded else preview.name,
        "notes": notes,
    }
    rows = "".join(
        f"<tr><th>{html.escape(str(k))}</th><td>{html.escape(str(v))}</td></tr>"
        for k, v in settings.items()
    )
    parts = TEMPLATE.read_text(encoding="utf-8")
    parts = parts.replace("{{title}}", html.escape(title)).replace("{{settings}}", rows)
    before, rest = parts.split("{{data}}")
    middle, after = rest.split("{{video}}")
    with whole_file(path) as file:
        file.write(before)
        file.write('{"head":' + _script_json(head) + ',"frames":[')
        for i, entry in enumerate(
            _entries(frames, image_size_hw, stride, motion_stride)
        ):
            file.write((",\n" if i else "\n") + _script_json(entry))
        file.write("]}" + middle)
        if embedded:
            with preview.open("rb") as video:
                while chunk := video.read(
                    3 << 16
                ):  # a multiple of 3: no padding inside
                    file.write(base64.b64encode(chunk).decode())
        file.write(after)
    if embedded:
        os.remove(preview)


def _entries(
    frames: Frames, image_size_hw, stride: int, motion_stride: int
) -> Iterator[list]:
    """[seconds from the start, frame, scale, people]; a person is [id, box, box score,
    joints x, y, score flat, {motion name: [rows, columns, base64]}]."""
    first_s = None
    for i, people in enumerate(frames()):
        first_s = people.time_s if first_s is None else first_s
        if i % stride:
            continue
        # A picture larger than the first was reduced to fit the video.
        scale = min(
            1.0,
            *(a / b for a, b in zip(image_size_hw, people.image_size_hw, strict=True)),
        )
        rows = [
            _person(people, row, with_motion=i % motion_stride == 0)
            for row in range(len(people))
        ]
        yield [round(people.time_s - first_s, 5), people.index, round(scale, 5), rows]


def _person(people: FramePoses, row: int, with_motion: bool) -> list:
    points = []
    for (x, y), score in zip(
        people.keypoints_xy_image[row].tolist(),
        people.keypoint_score[row].tolist(),
        strict=True,
    ):
        points += [round(x, 1), round(y, 1), round(score, 3)]
    motion = {}
    if with_motion:
        for name, maps in people.motion.items():
            data = base64.b64encode(maps[row].tobytes()).decode()
            motion[name] = [*maps.shape[1:], data]
    box = [round(v, 1) for v in people.person_box_xywh[row].tolist()]
    score = round(float(people.box_score[row]), 3)
    return [int(people.track_id[row]), box, score, points, motion]


def _script_json(content) -> str:
    """JSON that cannot end the script element it stands in."""
    return json.dumps(content, separators=(",", ":"), allow_nan=False).replace(
        "<", "\\u003c"
    )
