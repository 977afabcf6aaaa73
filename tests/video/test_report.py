"""The report in a real browser: scrub, toggle, read values, play; no console errors."""

import base64
import dataclasses
import json
import re

import numpy as np
import pytest

from tdpose_jax.skeleton import POSETRACK
from tdpose_jax.video import predict, report
from tdpose_jax.video.estimator import PoseEstimator
from tdpose_jax.video.journal import Journal
from tests.video import browser

needs_browser = pytest.mark.skipif(
    browser.CHROMIUM is None, reason="no chromium or google-chrome on this machine"
)


def journal_of(folder):
    made_by = json.loads((folder / "frames.jsonl").open().readline())
    return Journal(folder / "frames.jsonl", made_by)


def test_page_is_whole_and_refers_to_nothing_outside(whole):
    page = (whole / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']|https?://|url\(|@import""", page)
    assert "{{" not in page
    bytes_ = re.search(r'id="bytes">([^<]*)<', page)[1]
    assert base64.b64decode(bytes_)[4:8] == b"ftyp"


def test_long_videos_are_thinned_and_stay_beside(whole, tmp_path, monkeypatch):
    monkeypatch.setattr(report, "MAX_EMBEDDED_VIDEO_BYTES", 10)
    monkeypatch.setattr(report, "MAX_PEOPLE", 20)
    monkeypatch.setattr(report, "MAX_MOTION_PEOPLE", 10)
    preview = tmp_path / "preview.mp4"
    preview.write_bytes(b"x" * 99)
    journal = journal_of(whole)
    page = tmp_path / "report.html"
    report.save_report(
        journal.frames, POSETRACK, preview, page, "<b>&</b>", {"a": "<script>"}, "no"
    )
    journal.close()
    text = page.read_text()
    data = json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])
    assert preview.exists() and data["head"]["video"] == "preview.mp4"
    assert len(data["head"]["notes"]) == 3
    assert data["head"]["whyNoMotion"] == ""
    assert sum(len(f[3]) for f in data["frames"]) <= 20 + 3
    with_motion = [f for f in data["frames"] if any(p[4] for p in f[3])]
    assert 0 < len(with_motion) < len(data["frames"])
    assert "<b>" not in text and "<td>&lt;script&gt;</td>" in text


def test_the_page_says_why_there_is_no_motion(whole, estimator, tmp_path):
    journal = journal_of(whole)
    still = [dataclasses.replace(f, motion={}) for f in journal.frames()]
    journal.close()
    preview, page = tmp_path / "preview.mp4", tmp_path / "report.html"
    preview.write_bytes(b"x")
    reason = predict.why_no_motion(estimator, "onnxruntime")
    assert reason == (
        "The onnxruntime backend returns heatmaps only; --backend=jax shows motion."
    )
    report.save_report(lambda: iter(still), POSETRACK, preview, page, "", {}, reason)
    assert f'"whyNoMotion":"{reason}"' in page.read_text()

    def why(model=(), **changes):
        loaded = estimator.loaded
        loaded = dataclasses.replace(
            loaded, model=loaded.model.clone(**dict(model)), **changes
        )
        return predict.why_no_motion(PoseEstimator(loaded, estimator.backend), "jax")

    assert why().startswith("Nobody was found")
    assert why({"difference_stages": ()}).startswith("This network takes no temporal")
    assert why(window_delta=0).startswith("This network looks at single frames")


@needs_browser
def test_in_the_browser(whole, tmp_path):
    journal = journal_of(whole)
    frames = list(journal.frames())
    journal.close()
    with browser.Page(whole / "report.html", tmp_path / "profile") as page:
        page.wait("video.readyState >= 2")
        assert page.eval("[video.videoWidth, video.videoHeight]") == [160, 120]
        assert page.eval("+$('scrub').max") == len(frames) - 1

        # Scrubbing moves video, plots and values together.
        page.eval("$('scrub').value = 9; $('scrub').oninput({target: $('scrub')})")
        page.wait("!video.seeking")
        assert 9 / 25 <= page.eval("video.currentTime") < 10 / 25
        assert page.eval("$('where').textContent").startswith("frame 9,")
        joint = POSETRACK.index("right_wrist")
        page.eval(f"$('joint').value = {joint}; $('joint').onchange({{target: $('joint')}})")  # fmt: skip
        rows = page.eval(
            "[...document.querySelectorAll('#values tr')].map(r =>"
            "[...r.children].map(c => c.textContent))"
        )
        people = frames[9]
        expected = {
            int(i): people.keypoints_xy_image[r, joint]
            for r, i in enumerate(people.track_id)
        }
        assert [int(row[0]) for row in rows] == sorted(expected)
        for row in rows:
            np.testing.assert_allclose(
                [float(row[1]), float(row[2])], expected[int(row[0])], atol=0.06
            )

        # A click on a plot goes to that time.
        box = page.eval(
            "(r => [r.left, r.top, r.width, r.height])"
            "($('plotS').getBoundingClientRect())"
        )
        share = 3.2 / (len(frames) - 1)
        page.click(box[0] + 44 + share * (box[2] - 52), box[1] + 60)
        page.wait("now === 3")
        page.eval("go(9)")
        page.wait("!video.seeking")

        # Taking a person away takes skeleton, curves and values away.
        page.eval(
            "window.ink = (canvas, hex) => { const d = canvas.getContext('2d')"
            ".getImageData(0, 0, canvas.width, canvas.height).data; let n = 0;"
            "const want = hex && [1, 3, 5].map(i => parseInt(hex.slice(i, i + 2), 16));"
            "for (let i = 0; i < d.length; i += 4) n += d[i + 3] > 0 && (!want ||"
            "want.every((v, k) => Math.abs(v - d[i + k]) < 40)); return n; }; 0"
        )
        curve = "ink($('plotS'), color(+document.querySelector('#people input').dataset.id))"  # fmt: skip
        before = page.eval("ink($('skeletons'))")
        assert page.eval(curve) > 10
        maps = page.eval("document.querySelectorAll('#motion canvas').length")
        assert maps == 2 * len(people)
        first = page.eval("document.querySelector('#people input').dataset.id")
        page.eval("document.querySelector('#people input').click()")
        assert page.eval("ink($('skeletons'))") < before
        assert page.eval(curve) == 0
        assert page.eval(f"document.querySelectorAll('#values tr[data-id=\"{first}\"]').length") == 0  # fmt: skip
        assert (
            page.eval("document.querySelectorAll('#motion canvas').length") == maps - 2
        )
        page.eval("$('none').click()")
        assert page.eval("ink($('skeletons'))") == 0
        page.eval("$('all').click()")
        assert page.eval("ink($('skeletons'))") == before

        # The motion map drawn is the one stored, through the colour map.
        row = people.track_id.tolist().index(int(first))
        stored = people.motion["motion_useful"][row].ravel()
        drawn = page.eval(
            "[...(c => c.getContext('2d').getImageData(0, 0, c.width, c.height).data)"
            f"(document.querySelector('#motion canvas[data-id=\"{first}\"]'))]"
        )
        green = np.array(drawn).reshape(-1, 4)[:, 1]  # rises along the colour map
        order = np.argsort(stored, kind="stable")
        assert (np.diff(green[order]) >= 0).all() and np.ptp(green) > 0

        # Keys step; playing moves the scrubber.
        page.eval("document.onkeydown({key: 'ArrowRight', target: document.body, preventDefault() {}})")  # fmt: skip
        assert page.eval("now") == 10
        page.eval("go(0)")
        page.wait("!video.seeking")
        page.eval("$('play').click()")
        page.wait("now >= 5")
        page.screenshot(tmp_path / "report.png")
        assert (tmp_path / "report.png").stat().st_size > 20_000
        assert page.problems == []
