# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Files written by PyTorch itself (tests/interop/fixtures) give the features of their writer.

How they were written, and by which version, stands in `fixtures/make_fixtures.py`.
"""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from nbp import convert
from nbp.interop import feature_networks
from nbp.interop.feature_networks import is_head_name
from nbp.interop.mapping import convert_tensors
from nbp.interop.reading import open_tensors
from nbp.interop.states import find_state, set_aside
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.nn.conv3d import taps_conv
from nbp.training.checkpoint import Checkpointer

FIXTURES = Path(__file__).parent / "fixtures"
with np.load(FIXTURES / "logits.npz") as _stored:
    LOGITS = {name: _stored[name] for name in _stored}
FORMATS = {
    "legacy": "torch-legacy",
    "traced": "torchscript",
    "scripted": "torchscript",
    "safetensors": "safetensors",
}
NETWORK = C3dNetwork(C3dSpec(classes=5, widths=(2, 2, 2, 2, 2), hidden=4, size=16), taps_conv)
CLIPS = np.sin(np.arange(2 * 16**3 * 3, dtype=np.float64) ** 1.1).reshape(2, 16, 16, 16, 3)


@jax.jit
def compute(params):
    with jax.default_matmul_precision("highest"):
        return NETWORK.bind(params)(CLIPS.astype(np.float32))


def assert_logits(params, name: str) -> None:
    """To 1e-5 of the standard deviation of what the writer computed."""
    want = LOGITS[name]
    np.testing.assert_allclose(compute(params), want, rtol=0, atol=1e-5 * float(want.std()))


@pytest.mark.parametrize("name", sorted(LOGITS))
def test_every_file_gives_the_features_of_the_network_that_wrote_it(name):
    file = open_tensors(FIXTURES / name)
    expected = next((kind for part, kind in FORMATS.items() if part in name), "torch")
    assert file.format == expected
    state = find_state(file.tensors, feature_networks.is_c3d_name)
    tensors, _ = set_aside(
        feature_networks.clean_c3d_names(state.tensors), feature_networks.c3d_rules(), []
    )
    template = jax.eval_shape(NETWORK.init, jax.random.key(0))
    params = convert_tensors(tensors, feature_networks.c3d_rules(), template=template, origin=name)
    assert_logits(params, name)


def test_the_fixtures_tell_networks_apart():
    """The averaged weights are others than the current ones, so the test above sees which it is."""
    distance = np.abs(LOGITS["averaged.pt"] - LOGITS["zip.pt"]).max()
    assert distance > 0.1 * LOGITS["zip.pt"].std()
    assert all(np.abs(logits[0] - logits[1]).max() > 1e-3 for logits in LOGITS.values())
    names = {p.name for p in FIXTURES.iterdir()} - {"logits.npz", "vgg_heads.pth"}
    assert {n for n in names if not n.startswith(("make_", "__"))} == set(LOGITS)


@pytest.mark.parametrize("name", ["averaged.pt", "odd.pt", "sharded_safetensors"])
def test_the_command_converts_them_and_says_what_it_took(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("nbp.convert.C3dSpec", lambda: NETWORK.spec)
    convert.main(["c3d", "--source", str(FIXTURES / name), "--out", str(tmp_path)])
    template = jax.eval_shape(NETWORK.init, jax.random.key(0))
    with Checkpointer(tmp_path / "c3d" / "checkpoints", read_only=True) as checkpointer:
        assert_logits(checkpointer.restore_params(template, use_ema=False), name)
    printed = capsys.readouterr().out
    assert ("averaged weights (EMA, ema.net.*) are taken: 22 of 22" in printed) == (
        name == "averaged.pt"
    )
    left_out = "not part of this network, left out: fc7.mask, fc7.frequencies, fc7.flags and"
    assert (left_out in printed) == (name == "odd.pt")
    origin = json.loads((tmp_path / "c3d" / "converted.json").read_text())
    assert origin["known"] == "unknown"


def test_heads_of_lpips_in_the_format_of_their_package():
    """Legacy, with CUDA tensors: the first command of the documentation reads such a file."""
    file = open_tensors(FIXTURES / "vgg_heads.pth")
    assert file.format == "torch-legacy"
    heads = find_state(file.tensors, is_head_name).tensors
    raw = (FIXTURES / "vgg_heads.pth").read_bytes()
    for i, width in enumerate((64, 128, 256, 512, 512)):
        values = heads[f"lin{i}.model.1.weight"].read()
        assert values.shape == (1, width, 1, 1)
        assert np.int64(width).tobytes() + values.tobytes() in raw  # a length, then the numbers
        assert 0 <= values.min() < 0.1 < 0.9 < values.max() < 1
