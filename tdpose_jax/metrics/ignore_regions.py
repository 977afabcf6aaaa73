"""Which points lie strictly inside a polygon, with the decisions shapely would make.

poseval asks shapely's `contains`: a point on an edge or a vertex is *not* inside. Even-odd
rule by crossings of the ray to the right of the point; the side of an edge on which a
point lies is decided exactly, so that a border stays a border after rounding.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

# Relative rounding error bound of the 2x2 determinant (Shewchuk 1997, ccwerrboundA).
_ERROR_BOUND = (3.0 + 16.0 * np.finfo(np.float64).eps) * np.finfo(np.float64).eps


def inside_any_polygon(
    points_xy: np.ndarray, polygons: Sequence[np.ndarray]
) -> np.ndarray:
    """[N] bool: strictly inside at least one polygon.

    Args:
      points_xy: [N, 2].
      polygons: [M, 2] vertex lists, closed or open; fewer than 3 vertices hold nothing.
    """
    inside = np.zeros(len(points_xy), dtype=bool)
    for polygon in polygons:
        if len(polygon) < 3:
            continue
        low, high = polygon.min(axis=0), polygon.max(axis=0)
        near = ((points_xy > low) & (points_xy < high)).all(axis=1) & ~inside
        if near.any():
            inside[near] = _strictly_inside(points_xy[near], polygon)
    return inside


def _strictly_inside(points_xy: np.ndarray, polygon: np.ndarray) -> np.ndarray:
    """[N] bool for one polygon; arrays below are [N, edges]."""
    x, y = points_xy[:, :1], points_xy[:, 1:]
    ax, ay = polygon[:, 0], polygon[:, 1]
    bx, by = np.roll(ax, -1), np.roll(ay, -1)
    side = _side(ax, ay, bx, by, x, y)
    within_x = (np.minimum(ax, bx) <= x) & (x <= np.maximum(ax, bx))
    within_y = (np.minimum(ay, by) <= y) & (y <= np.maximum(ay, by))
    on_border = ((side == 0) & within_x & within_y).any(axis=1)
    # A crossing edge spans y half-open and lies to the right of the point.
    upward = (ay <= y) & (by > y) & (side > 0)
    downward = (by <= y) & (ay > y) & (side < 0)
    odd = (upward | downward).sum(axis=1) % 2 == 1
    return odd & ~on_border


def _side(ax, ay, bx, by, x, y) -> np.ndarray:
    """Sign of the cross product (b - a) x (p - a), exact for float64 input."""
    left = (bx - ax) * (y - ay)
    right = (by - ay) * (x - ax)
    cross = left - right
    sign = np.sign(cross)
    doubtful = np.abs(cross) <= _ERROR_BOUND * (np.abs(left) + np.abs(right))
    for row, edge in zip(*np.nonzero(doubtful), strict=True):
        a = Fraction(float(ax[edge])), Fraction(float(ay[edge]))
        b = Fraction(float(bx[edge])), Fraction(float(by[edge]))
        p = Fraction(float(x[row, 0])), Fraction(float(y[row, 0]))
        exact = (b[0] - a[0]) * (p[1] - a[1]) - (b[1] - a[1]) * (p[0] - a[0])
        sign[row, edge] = (exact > 0) - (exact < 0)
    return sign
