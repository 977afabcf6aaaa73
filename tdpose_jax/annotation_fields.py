"""Checked access to the fields of an untrusted annotation file.

Every helper raises `FieldError`, and `inside` adds the place as the error travels up,
so that a good file pays nothing for precise messages.
"""

import json
import re
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import numpy as np

# Pixels. Nobody's video is larger, and squared distances stay far from overflow.
MAX_COORDINATE = 1e7
_DRIVE = re.compile(r"^[A-Za-z]:")


class FieldError(Exception):
    """One field is wrong. `steps` collects its path from the inside out."""

    def __init__(self, problem: str, remedy: str):
        super().__init__(problem)
        self.problem = problem
        self.remedy = remedy
        self.steps: list[str] = []

    def describe(self) -> str:
        """The whole message: field, problem, remedy."""
        field = "".join(reversed(self.steps)).lstrip(".")
        place = f"field {field}: " if field else ""
        return f"{place}{self.problem}; {self.remedy}"


class inside:  # noqa: N801 - reads as a statement: with inside(".annolist[3]")
    """Adds one step of the field path to any FieldError raised in the block."""

    __slots__ = ("step",)

    def __init__(self, step: str):
        self.step = step

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind, error, traceback) -> bool:
        if isinstance(error, FieldError):
            error.steps.append(self.step)
        return False


def brief(value: object) -> str:
    """A short description that is safe for any parsed value, however deep or long."""
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object of {len(value)} keys"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "an integer beyond 64 bits"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def read_json(path: Path) -> object:
    """Parses a JSON file; NaN and Infinity are not JSON and are refused."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise FieldError(
            f"cannot be read ({error.strerror})", "check the path and its permissions"
        ) from None

    def refuse(constant: str) -> None:
        raise FieldError(f"contains {constant}", "replace it by a finite number")

    try:
        return json.loads(data, parse_constant=refuse)
    except RecursionError:
        raise FieldError("is nested too deeply", "this is no annotation file") from None
    except ValueError as error:  # syntax, encoding, or an absurdly long integer
        raise FieldError(
            f"is not valid JSON ({error})", "download or export the file again"
        ) from None


def as_object(value: object) -> dict:
    """An object, or the one object of a one-element list (jsonlab's SingletArray)."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, dict):
        raise FieldError(f"expected an object, got {brief(value)}", "see the format")
    return value


def as_objects(value: object) -> list[dict]:
    """A list of objects; a lone object counts as one and null as none."""
    if value is None:
        return []
    if isinstance(value, dict):
        return [value]
    if not isinstance(value, list):
        raise FieldError(
            f"expected a list of objects, got {brief(value)}", "see the format"
        )
    for i, item in enumerate(value):
        if not isinstance(item, dict):
            with inside(f"[{i}]"):
                raise FieldError(
                    f"expected an object, got {brief(item)}", "see the format"
                )
    return value


def required(value: dict, key: str) -> object:
    """The caller is already `inside` the key, as for the checks that follow."""
    if key not in value:
        raise FieldError("is missing", "add it or export the file again")
    return value[key]


def optional(value: dict, key: str) -> object | None:
    """None where the key is missing, null or an empty list, unwrapped otherwise."""
    found = value.get(key)
    if isinstance(found, list):
        if not found:
            return None
        if len(found) != 1:
            with inside(f".{key}"):
                raise FieldError(f"expected one value, got {brief(found)}", "keep one")
        found = found[0]
    return found


def number(value: object) -> float:
    """A finite number, bare or in a one-element list.

    Raises:
      FieldError: for anything else, also for magnitudes above MAX_COORDINATE.
    """
    if type(value) is list and len(value) == 1:
        value = value[0]
    if type(value) is not float and type(value) is not int:
        raise FieldError(f"expected a number, got {brief(value)}", "correct the value")
    if not -MAX_COORDINATE <= value <= MAX_COORDINATE:  # also catches NaN
        raise FieldError(
            f"{brief(value)} is not a finite number within {MAX_COORDINATE:g}",
            "correct the value",
        )
    return float(value)


def integer(value: object) -> int:
    """A 64-bit integer; 3.0 counts as 3."""
    if type(value) is list and len(value) == 1:
        value = value[0]
    if type(value) is float and value.is_integer():
        value = int(value)
    if type(value) is not int:
        raise FieldError(
            f"expected an integer, got {brief(value)}", "correct the value"
        )
    if not -(2**63) <= value < 2**63:
        raise FieldError("does not fit in 64 bits", "correct the value")
    return value


def flag(value: object) -> bool:
    """A truth value written as true/false or 0/1."""
    if isinstance(value, bool):
        return value
    if type(value) in (int, float) and value in (0, 1):
        return bool(value)
    raise FieldError(f"expected 0, 1, true or false, got {brief(value)}", "correct it")


def numbers(values: object, counts: Sequence[int]) -> np.ndarray:
    """A flat list of finite numbers as float64, its length one of `counts`."""
    if not isinstance(values, list) or (counts and len(values) not in counts):
        wanted = " or ".join(str(c) for c in counts) + " " if counts else ""
        raise FieldError(
            f"expected a list of {wanted}numbers, got {brief(values)}",
            "correct the list",
        )
    if not values:
        return np.zeros(0)
    table = number_table([values], len(values))
    if table is not None:
        return table[0]
    for i, value in enumerate(values):
        with inside(f"[{i}]"):
            if isinstance(value, list):
                raise FieldError("expected a number, got a list", "flatten it")
            number(value)
    raise AssertionError("unreachable: one of the numbers is bad")


def number_table(rows: Sequence[object], width: int) -> np.ndarray | None:
    """[N, width] float64, or None if any row is not `width` finite numbers.

    The fast way for good files; `numbers` then finds which row is bad, and why.
    """
    if not all(isinstance(row, list) and len(row) == width for row in rows):
        return None
    if not rows:
        return np.zeros((0, width))
    if not set(map(type, chain.from_iterable(rows))) <= {int, float}:
        return None
    try:
        table = np.array(rows, dtype=np.float64)
    except OverflowError:
        return None
    return table if np.abs(table).max() <= MAX_COORDINATE else None


def image_path(value: object) -> str:
    """A relative POSIX path that stays below the data root.

    Raises:
      FieldError: for absolute paths, `..`, backslashes, drives, control characters.
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, str) or not value or len(value) > 1024:
        raise FieldError(
            f"expected an image path, got {brief(value)}", "give a relative path"
        )
    if (
        value.startswith("/")
        or "\\" in value
        or _DRIVE.match(value)
        or ".." in value.split("/")
        or not value.isprintable()
    ):
        raise FieldError(
            f"image path {brief(value)} leaves the data root or is not portable",
            "use a path relative to the data root, with / and without ..",
        )
    return value


def polygon(xs: np.ndarray, ys: np.ndarray) -> np.ndarray | None:
    """[N, 2] vertices; None below three, which enclose nothing."""
    if len(xs) != len(ys):
        raise FieldError(
            f"{len(xs)} x values but {len(ys)} y values", "make the lists equally long"
        )
    return np.stack([xs, ys], axis=1) if len(xs) >= 3 else None
