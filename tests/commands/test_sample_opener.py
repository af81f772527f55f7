# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Two models in one sampler, through the commands: what is drawn, counted, named and refused."""

import json
import re
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import nbp
from nbp import build, evaluate, sample
from nbp.errors import CheckpointError, ConfigError
from nbp.workdir import read_config
from tests.evaluated import add_generator, make_workdir, save_params

CHANGES = {
    "generator.block": "frame",
    "generator.opening": "bov",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
    "sampling.batch": "4",
}
LARGE = CHANGES | {"generator.width": "32", "generator.block": "row"}


@pytest.fixture(scope="module")
def workdirs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A model of frames, and a wider one of rows with a copy of its tokenizer."""
    folder = tmp_path_factory.mktemp("opener")
    small = add_generator(make_workdir(folder / "small", CHANGES))
    large = make_workdir(folder / "large", LARGE)
    shutil.rmtree(large / "tokenizer")
    shutil.copytree(small / "tokenizer", large / "tokenizer")
    return small, add_generator(large)


def draw(workdir: Path, out: Path, *flags: str) -> dict[str, np.ndarray]:
    sample.main(["--workdir", str(workdir), "--num", "3", "--out", str(out), *flags])
    with np.load(out / "samples.npz") as file:
        return dict(file)


def test_the_command_the_library_and_the_configuration_draw_the_same(workdirs, tmp_path, capsys):
    small, large = workdirs
    both = draw(small, tmp_path / "both", "--opener", str(large))
    # A latent frame has four rows; two frames follow.
    assert f"6.0 passes per clip on average; 4.0 of them by {large}" in capsys.readouterr().out
    alone = draw(large, tmp_path / "alone")
    np.testing.assert_array_equal(both["tokens"][:, :1], alone["tokens"][:, :1])
    assert np.any(both["tokens"][:, 1:] != alone["tokens"][:, 1:])
    plain = draw(small, tmp_path / "plain")
    assert np.any(both["tokens"][:, :1] != plain["tokens"][:, :1])
    run = nbp.load(small)
    np.testing.assert_array_equal(run.sample(num=3), plain["videos"])
    np.testing.assert_array_equal(run.sample(num=3, opener=str(large)), both["videos"])
    long = run.sample(num=3, opener=str(large), num_frames=9)
    np.testing.assert_array_equal(long[:, :5], both["videos"])


def test_the_report_names_the_opener_and_stored_clips_are_not_mixed(workdirs, tmp_path):
    small, large = workdirs
    cache = tmp_path / "cache"
    found = {}
    for name, keys in (("plain", {}), ("opened", {"opener": large, "opener_frames": 2})):
        flags = [f"--config.sampling.{key}={value}" for key, value in keys.items()]
        out = tmp_path / f"{name}.json"
        flags += ["--workdir", str(small), "--protocol", "moving-shapes", "--clips", "4"]
        evaluate.main([*flags, "--cache", str(cache), "--out", str(out)])
        found[name] = json.loads(out.read_text())
    assert [found[name]["generation"]["passes"] for name in found] == [3, 9]
    assert "opener_passes" not in found["plain"]["generation"]
    assert found["opened"]["generation"]["opener_passes"] == 8
    sha256 = found["opened"]["checkpoints"]["opener_sha256"]
    assert re.fullmatch("[0-9a-f]{64}", sha256)
    assert "opener_sha256" not in found["plain"]["checkpoints"]
    folders = [path for path in cache.iterdir() if path.name.startswith("generated")]
    assert len(folders) == 2
    settings = [json.loads((path / "settings.json").read_text()) for path in folders]
    assert {one["clips"]["model"].get("opener_sha256") for one in settings} == {None, sha256}
    drawing = [one["clips"]["sampling"] for one in settings]
    assert all("opener" not in keys for keys in drawing)  # another place is no other model
    assert sorted(keys.get("opener_frames", 0) for keys in drawing) == [0, 2]


def test_models_that_do_not_go_together_are_refused(workdirs, tmp_path):
    small, large = workdirs
    out = tmp_path / "out"

    def refuse(error: type[Exception], message: str, opener: Path, *flags: str) -> None:
        with pytest.raises(error, match=message) as raised:
            draw(small, out, "--opener", str(opener), *flags)
        assert "\n" not in str(raised.value)
        assert not out.exists()

    refuse(CheckpointError, "is no workdir", tmp_path / "nothing")
    untrained = make_workdir(tmp_path / "untrained", LARGE)
    refuse(CheckpointError, "sampling.opener: .* holds no trained generator", untrained)
    refuse(ConfigError, "opener_frames 3: a clip of 3", large, "--opener_frames", "3")
    with pytest.raises(ConfigError, match="--opener_frames: name the model .* --opener DIR"):
        draw(small, out, "--opener_frames", "2")
    other = tmp_path / "other"
    shutil.copytree(large, other)
    (other / "labels.json").write_text(json.dumps(["a", "b"]))
    refuse(ConfigError, "was trained with other classes", other)
    longer = add_generator(make_workdir(tmp_path / "longer", LARGE | {"data.frames": "9"}))
    refuse(ConfigError, r"grid of \(5, 4, 4\) .*, this model a grid of \(3, 4, 4\)", longer)
    shutil.copy2(large / "labels.json", other / "labels.json")
    shutil.rmtree(other / "tokenizer")
    config = read_config(other)
    params = build.make_tokenizer_network(config).init(jax.random.key(9))
    save_params(other, "tokenizer", params)
    with pytest.raises(CheckpointError, match="was trained on the tokenizer .* mean something"):
        draw(small, out, "--opener", str(other))
