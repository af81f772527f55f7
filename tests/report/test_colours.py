# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The colours of lines: told apart by people who see fewer colours, and from the paper."""

import itertools
import re
from importlib import resources

import numpy as np
import pytest

from nbp.report.svg import SERIES
from tests.report.page_reader import luminance

# What people see whose cones for long, middle or short waves are missing: linear RGB, severity 1
# (Machado, Oliveira and Fernandes 2009, table 1).
SEEN = {
    "all colours": np.eye(3),
    "no red cones": np.array(
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]]
    ),
    "no green cones": np.array(
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]]
    ),
    "no blue cones": np.array(
        [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]]
    ),
}
TO_XYZ = np.array([[0.4125, 0.3576, 0.1804], [0.2127, 0.7152, 0.0722], [0.0193, 0.1192, 0.9503]])


def read_palettes() -> list[dict[str, np.ndarray]]:
    """The colours of the page by day and by night, sRGB from 0 to 1."""
    style = resources.files("nbp.report").joinpath("page.css").read_text(encoding="utf8")
    found = []
    for block in re.findall(r":root \{(.*?)\}", style, re.S):
        pairs = re.findall(r"--(\w+): #([0-9a-f]{6})", block)
        found.append({name: np.array(list(bytes.fromhex(code))) / 255 for name, code in pairs})
    return found


def to_lab(colour: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (white D65) of a colour as it is seen."""
    linear = np.where(colour <= 0.04045, colour / 12.92, ((colour + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(seen @ linear, 0, 1) / np.array([0.9505, 1, 1.0888])
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("name", SEEN)
@pytest.mark.parametrize("night", [0, 1])
def test_lines_are_told_apart(name: str, night: int) -> None:
    """A difference of 2 is just seen; the colours before these had 4."""
    palette = read_palettes()[night]
    labs = [to_lab(palette[f"s{i + 1}"], SEEN[name]) for i in range(SERIES)]
    least = min(np.linalg.norm(a - b) for a, b in itertools.combinations(labs, 2))
    assert least > 22


@pytest.mark.parametrize("night", [0, 1])
def test_lines_stand_out_from_the_paper(night: int) -> None:
    """3 to 1 for lines, 4.5 to 1 for the three that are text as well (WCAG 2)."""
    palette = read_palettes()[night]
    lights = {
        name: luminance(f"rgb({', '.join(str(round(255 * float(v))) for v in colour)})")
        for name, colour in palette.items()
    }
    for i in range(SERIES):
        low, high = sorted((lights["paper"], lights[f"s{i + 1}"]))
        assert (high + 0.05) / (low + 0.05) > (4.5 if i < 3 else 3)
