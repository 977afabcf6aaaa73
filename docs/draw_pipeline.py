"""Draws docs/pipeline.svg, the picture in the README: python docs/draw_pipeline.py"""

from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

matplotlib.rcParams["svg.hashsalt"] = "tdpose"  # the same bytes every time
FROZEN, MOTION, USEFUL, NOISY, HEAD = (
    "#d7e3f4", "#fde6c8", "#cdebc9", "#f6cfcf", "#e4daf0",
)  # fmt: skip
EDGE = "#404040"


def box(axes, x, y, width, height, text, color, size=9):
    """A box with its lower left corner at (x, y)."""
    style = "round,pad=0,rounding_size=0.06"
    axes.add_patch(
        FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle=style,
            facecolor=color,
            edgecolor=EDGE,
            linewidth=0.8,
        )  # fmt: skip
    )
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center",
              fontsize=size, linespacing=1.25)  # fmt: skip


def arrow(axes, start, end, bend=0.0, dashed=False):
    """From point to point."""
    axes.add_patch(
        FancyArrowPatch(
            start,
            end,
            arrowstyle="-|>",
            mutation_scale=9,
            color=EDGE,
            linewidth=0.9,
            connectionstyle=f"arc3,rad={bend}",
            shrinkA=0,
            shrinkB=0,
            linestyle="--" if dashed else "-",
        )  # fmt: skip
    )


def draw() -> Figure:
    """The whole picture, 10 x 4.4 units."""
    figure = Figure(figsize=(10, 4.4))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 4.4)
    axes.set_axis_off()

    for i, name in enumerate(("$t-2$", "$t-1$", "$t$", "$t+1$", "$t+2$")):
        y = 3.55 - 0.62 * i
        is_key = i == 2
        box(axes, 0.1, y, 0.75, 0.5, name, "#ffffff" if not is_key else "#fff3a8")
        arrow(axes, (0.85, y + 0.25), (1.15, y + 0.25))
    axes.text(0.1, 4.2, "one person", ha="left", fontsize=8)
    box(axes, 1.15, 1.0, 0.95, 3.1, "HRNet\n\npretrained\nand frozen", FROZEN)

    for s in (1, 2, 3, 4):
        y = 4.4 - 0.78 * s
        arrow(axes, (2.1, y + 0.25), (2.35, y + 0.25))
        box(axes, 2.35, y, 1.25, 0.5, f"differences,\nstage {s}", MOTION, 8)
        arrow(axes, (3.6, y + 0.25), (3.8, y + 0.25))
        box(axes, 3.8, y, 1.35, 0.5, "residual blocks,\ndeformable conv.", MOTION, 8)
        arrow(axes, (5.15, y + 0.25), (5.35, y + 0.25))
        box(axes, 5.35, y, 0.62, 0.5, f"$M^{s}$", MOTION, 9)
        if s > 1:
            arrow(axes, (5.66, y + 0.78), (5.66, y + 0.5))
    axes.text(6.04, 3.5, "cascade", fontsize=8, rotation=-90, ha="center", va="center")

    arrow(axes, (5.97, 1.53), (6.3, 1.53))
    box(axes, 6.3, 1.28, 0.85, 0.5, "motion $M$", MOTION, 9)
    arrow(axes, (7.15, 1.6), (7.45, 2.35))
    arrow(axes, (7.15, 1.53), (7.45, 1.53))
    box(axes, 7.45, 2.1, 0.95, 0.5, "useful $M_u$", USEFUL, 9)
    box(axes, 7.45, 1.28, 0.95, 0.5, "noisy $M_n$", NOISY, 9)
    axes.text(6.72, 2.3, "two channel\ngates", fontsize=8, ha="center", va="center")
    arrow(axes, (7.92, 2.1), (7.92, 1.78), dashed=True)
    arrow(axes, (7.92, 1.78), (7.92, 2.1), dashed=True)
    axes.text(
        8.47, 1.86, "$I(M_u; M_n)$\nminimised", fontsize=8, ha="left", va="center"
    )

    arrow(axes, (8.4, 2.35), (8.62, 2.72))
    box(axes, 8.35, 2.72, 1.5, 0.5, "concatenation,\nresidual blocks", HEAD, 8)
    arrow(axes, (9.1, 3.22), (9.1, 3.5))
    box(axes, 8.35, 3.5, 1.5, 0.5, "heatmaps of frame $t$", HEAD, 8)

    # The keyframe's feature goes round below everything.
    axes.plot([1.62, 1.62, 9.6], [1.0, 0.62, 0.62], color=EDGE, linewidth=0.9)
    arrow(axes, (9.6, 0.62), (9.6, 2.72))
    axes.text(4.2, 0.72, "feature of the keyframe", fontsize=8, ha="center")
    axes.text(
        4.2, 0.25,
        "Only what is right of HRNet is trained. TDMI-ST also gives the head the features "
        "of all frames.",
        fontsize=8, ha="center", color=EDGE,
    )  # fmt: skip
    return figure


if __name__ == "__main__":
    target = Path(__file__).with_name("pipeline.svg")
    draw().savefig(target, metadata={"Date": None, "Creator": "docs/draw_pipeline.py"})
