# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0

import numpy as np
import pytest
from PIL import Image

from nbp.errors import DataError
from nbp.report import plots
from nbp.report.plots import write_curves_png
from nbp.report.svg import Chart, Curve
from nbp.training.metrics import MetricsTable


def fill(path, **extra):
    table = MetricsTable(path)
    for step in range(10, 410, 10):
        table.add(step, {"loss": 100 / step, "psnr": 20 + step / 50, "step_time_s": 0.1, **extra})
        if step % 100 == 0:
            table.add(step, {"validation/loss": 120 / step, "label_agreement/shape": 0.5})
    return table


def read_pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def test_curves_are_drawn(tmp_path):
    table = fill(tmp_path / "metrics.csv")
    write_curves_png(table.path, tmp_path / "curves.png", title="tokenizer")
    pixels = read_pixels(tmp_path / "curves.png")
    assert pixels.shape[1] > pixels.shape[0] > 200
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    assert np.mean(saturation > 60) > 1e-3, "there are coloured curves"


def test_charts_are_drawn_with_errors(tmp_path):
    points = tuple((10.0**x, 1.0 + x) for x in range(4))
    curves = (Curve("a", points, (0.1,) * 4), Curve("b", points, joined=False))
    chart = Chart("t", curves, x_logarithmic=True)
    plots.write_charts_png(tmp_path / "c.png", [chart] * 4, title="all")
    pixels = read_pixels(tmp_path / "c.png")
    saturation = pixels.max(axis=2) - pixels.min(axis=2)
    assert np.mean(saturation > 60) > 1e-3
    assert pixels.shape[1] > 1.5 * pixels.shape[0], "three in a row, then one"


def test_curves_need_metrics(tmp_path):
    with pytest.raises(DataError, match="no metrics to draw"):
        write_curves_png(tmp_path / "none.csv", tmp_path / "curves.png")


def test_what_is_read_side_by_side_shares_a_panel(tmp_path):
    extra = {"reconstruction": 0.1, "grad_norm": 2.0, "discriminator_grad_norm": 0.1}
    table = fill(tmp_path / "metrics.csv", **extra, adversarial_weight=0.0)
    table.add(400, {"adversarial_weight": 0.5, "quantizer": float("nan")})
    table.add(230, {"alarm/grad_norm": 1.0})
    table.add(100, {"alarm/rollback": 260.0})
    panels, alarms = plots.arrange_panels(table)
    assert {panel.title: list(panel.curves) for panel in panels} == {
        "losses": [("loss", ""), ("loss", "validation"), ("reconstruction", "")],
        "psnr": [("psnr", "")],
        "gradient norms": [("grad_norm", ""), ("discriminator_grad_norm", "")],
        "adversarial_weight": [("adversarial_weight", "")],
        "shape": [("shape", "label_agreement")],
        "step_time_s": [("step_time_s", "")],
    }
    assert panels[-1].title == "step_time_s", "how it ran comes last"
    by_title = {panel.title: panel for panel in panels}
    assert by_title["adversarial_weight"].curves["adversarial_weight", ""] == [(400, 0.5)]
    assert [title for title, panel in by_title.items() if panel.logarithmic] == [
        "losses",
        "gradient norms",
    ]
    assert alarms == {"grad_norm": [230], "rollback": [100]}


def test_alarms_are_lines_in_the_panels_about_learning(tmp_path):
    """Red pixels, the colour of the first alarm, appear with it in one panel and not the other."""
    for name in ("calm", "alarmed"):
        table = fill(tmp_path / f"{name}.csv")
        if name == "alarmed":
            table.add(200, {"alarm/grad_norm": 1.0})
        write_curves_png(table.path, tmp_path / f"{name}.png")
    calm, alarmed = [read_pixels(tmp_path / f"{name}.png") for name in ("calm", "alarmed")]

    def find_red(pixels):
        red, green, blue = np.moveaxis(pixels, 2, 0)
        return (red - green > 50) & (np.abs(green - blue) < 20)

    assert find_red(calm).sum(axis=0).max() < 10
    columns = np.flatnonzero(find_red(alarmed).sum(axis=0) > 30)
    panels = 4  # loss, psnr, shape; step_time_s is about the machine
    assert set(columns * panels // alarmed.shape[1]) == {0, 1, 2}
