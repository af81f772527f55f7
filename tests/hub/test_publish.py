# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""`nbp.export --format safetensors`: a folder for a hub, read back bit for bit."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

import nbp
from nbp import build, export, locks, sample
from nbp.config import load_config, to_json
from nbp.config.schema import Config
from nbp.errors import CheckpointError, ConfigError
from nbp.files import write_text
from nbp.hub.folder import read_records
from nbp.stages import STAGES
from nbp.training.checkpoint import Checkpointer
from nbp.training.state import TrainState
from nbp.workdir import read_config, save_labels
from tests import tiny
from tests.report.report_example import make_report

LABELS = ("left", "right")
CONFIG = load_config(
    tiny.CONFIG,
    {
        **tiny.OVERRIDES,
        **{f"train.{stage}.ema": "0.9" for stage in STAGES},
        "memory.parameters": "float32",
        "evaluation.features": "/home/me/weights",
    },
)


def write_run(folder: Path, config: Config) -> dict[str, str]:
    """As training leaves it; the average is twice the parameters. Returns checkpoints' hashes."""
    hashes: dict[str, str] = {}
    for name, stage in STAGES.items():
        params = jax.jit(stage.make_network(config, LABELS).init)(jax.random.key(1))
        params = jax.tree.map(np.asarray, params)
        ema = jax.tree.map(lambda x: 2 * x, params)
        state = TrainState(np.asarray(7, np.int32), params, ema=ema, opt_state={}, extra={})
        meta = {"tokenizer_sha256": hashes["tokenizer"]} if hashes else {}
        with Checkpointer(folder / name / "checkpoints") as checkpointer:
            checkpointer.save(7, state, data={}, meta=meta)
            checkpointer.wait()
            hashes[name] = checkpointer.checkpoint_hash(7)
    write_text(folder / "config.json", to_json(config))
    save_labels(folder, LABELS)
    return hashes


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With curves, a report of its weights and one of others."""
    folder = tmp_path_factory.mktemp("publish") / "run"
    hashes = write_run(folder, CONFIG)
    for name in STAGES:
        write_text(folder / name / "metrics.csv", "step,loss\n1,2.0\n2,1.0\n")
    used = {f"{name}_sha256": digest for name, digest in hashes.items()}
    of_these = {
        "checkpoints": {**used, "tokenizer_step": 7, "generator_step": 7},
        "averaged": True,
        "averaged_generator": True,
        "deviations": ["64 clips instead of 256"],
        "complete": False,
    }
    write_text(folder / "report" / "one.json", json.dumps(make_report(**of_these)))
    other = {**of_these, "averaged": False, "averaged_generator": False, "deviations": []}
    write_text(folder / "report" / "two.json", json.dumps(make_report(**other)))
    return folder


def publish(workdir: Path, out: Path, *flags: str) -> None:
    export.main(["--workdir", str(workdir), "--out", str(out), "--format", "safetensors", *flags])


@pytest.fixture(scope="module")
def published(workdir: Path) -> Path:
    out = workdir.parent / "published"
    publish(workdir, out, "--license", "MIT")
    return out


def read_raw(path: Path) -> dict[str, np.ndarray]:
    """A safetensors file by the words of its specification, float32 alone."""
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    assert start % 8 == 0
    assert header.pop("__metadata__") == {"format": "np"}
    ends = sorted(entry["data_offsets"] for entry in header.values())
    assert [begin for begin, _ in ends] == [0, *(end for _, end in ends[:-1])]
    assert ends[-1][1] == len(data) - start
    found = {}
    for name, entry in header.items():
        assert entry["dtype"] == "F32"
        begin, end = entry["data_offsets"]
        values = np.frombuffer(data[start + begin : start + end], "<f4")
        found[name] = values.reshape(entry["shape"])
    return found


def averaged(workdir: Path, stage: str) -> dict[str, np.ndarray]:
    network = STAGES[stage].make_network(CONFIG, LABELS)  # type: ignore[index]
    trained = build.load_trained(workdir, stage, network=network, ema=True)  # type: ignore[arg-type]
    leaves = jax.tree_util.tree_flatten_with_path(trained.params)[0]
    return {
        ".".join(str(getattr(k, "key", getattr(k, "idx", k))) for k in path): np.asarray(leaf)
        for path, leaf in leaves
    }


@pytest.mark.parametrize("stage", STAGES)
def test_the_file_holds_the_average_under_the_names_of_the_parameters(workdir, published, stage):
    found = read_raw(published / stage / "model.safetensors")
    wanted = averaged(workdir, stage)
    assert found.keys() == wanted.keys()
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name], values)


def test_the_same_clips_as_from_the_run(workdir, published, tmp_path):
    wanted = nbp.load(workdir).sample(labels=["right"], num=1, seed=3)
    run = nbp.load(published)
    assert run.labels == LABELS
    np.testing.assert_array_equal(run.sample(labels=["right"], num=1, seed=3), wanted)
    flags = ["--num", "1", "--seed", "3", "--label", "right", "--out", str(tmp_path / "drawn")]
    sample.main(["--workdir", str(published), *flags])
    drawn = np.load(tmp_path / "drawn" / "samples.npz")["videos"]
    np.testing.assert_array_equal(drawn, wanted)


JOINT = {"generator.head": "joint", "generator.positions": "rotary"}
GRIDS = {"data.grids": "((3, 16, 24),)", "generator.positions": "rotary"}
DRAWN_ON_ANOTHER = {"num_frames": 3, "size": (16, 24)}


@pytest.mark.parametrize(
    "changes, options, told",
    [
        (JOINT, {}, "rotary positions, block row, opening hybrid, output head joint"),
        (GRIDS, DRAWN_ON_ANOTHER, "3 x 4 x 4 codes of 16 (fsq), those of 3 x 16 x 24 become 2 x 4"),
    ],
)
def test_other_heads_positions_and_grids(tmp_path, changes, options, told):
    write_run(tmp_path / "run", load_config(tiny.CONFIG, {**tiny.OVERRIDES, **changes}))
    publish(tmp_path / "run", tmp_path / "out")
    wanted, found = (
        nbp.load(tmp_path / name).sample(num=1, seed=3, **options) for name in ("run", "out")
    )
    assert wanted.shape == (1, *((3, 16, 24) if options else (5, 16, 16)), 3)
    np.testing.assert_array_equal(found, wanted)
    assert told in (tmp_path / "out" / "README.md").read_text(encoding="utf8")


def test_the_card_tells_scores_deviations_licence_and_curves(published):
    text = (published / "README.md").read_text(encoding="utf8")
    assert text.startswith('---\nlicense: "mit"\nlibrary_name: "nbp"\n')
    assert "64 clips instead of 256" in text
    first, second = text.split("### Protocol")[1:]
    assert "not of these weights" not in first
    assert "* not of these weights: of the current generator at step 7" in second
    for name, value in make_report()["scores"].items():
        row = next(line for line in first.splitlines() if line.startswith(f"| {name} |"))
        assert float(row.split("|")[2]) == pytest.approx(value, abs=0.006)
    for stage in STAGES:
        assert f"({stage}_curves.png)" in text
        assert (published / f"{stage}_curves.png").read_bytes().startswith(b"\x89PNG")
    assert "(SHA-256" not in text  # trained here
    assert text.count("averaged over training; float32.") == 2
    assert "2 classes (`labels.json`): left, right." in text


def test_places_of_this_machine_are_left_out(published):
    values = json.loads((published / "config.json").read_text(encoding="utf8"))
    assert values["evaluation"]["features"] == ""
    assert set(values["published"]["versions"]) == {"nbp", "jax", "numpy"}
    assert "/home/me" not in "".join(p.read_text() for p in published.glob("*.[jm]*"))
    config = read_config(published)
    assert config.train.generator.ema == 0
    assert config.generator == CONFIG.generator


def test_shards_with_an_index(workdir, published, tmp_path):
    out = tmp_path / "out"
    publish(workdir, out, "--shard_gb", "1e-6")
    index = json.loads((out / "generator" / "model.safetensors.index.json").read_text())
    files = sorted(set(index["weight_map"].values()))
    assert len(files) > 2
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    whole = read_raw(published / "generator" / "model.safetensors")
    for file in files:
        part = read_raw(out / "generator" / file)
        assert len(part) == 1 or sum(values.nbytes for values in part.values()) <= 1000
        assert {index["weight_map"][name] for name in part} == {file}
        for name, values in part.items():
            np.testing.assert_array_equal(values, whole.pop(name))
    assert not whole
    assert index["metadata"]["total_size"] == sum(
        values.nbytes for values in read_raw(published / "generator" / "model.safetensors").values()
    )
    # And back into a workdir, whichever way it is stored.
    back = tmp_path / "back"
    export.main(["--workdir", str(out), "--out", str(back)])
    network = build.make_generator_network(CONFIG, LABELS)
    params = build.load_trained(back, "generator", network=network, ema=False).params
    for a, b in zip(jax.tree.leaves(params), averaged(workdir, "generator").values(), strict=True):
        np.testing.assert_array_equal(a, b)
    # It remembers that it was an average.
    publish(back, tmp_path / "again")
    text = (tmp_path / "again" / "README.md").read_text(encoding="utf8")
    assert text.count("averaged over training; float32.") == 2


def test_the_same_again_is_done_and_another_one_refused(workdir, published, tmp_path, capsys):
    before = {p: p.stat().st_mtime_ns for p in published.rglob("*")}
    publish(workdir, published)
    assert "already exported: tokenizer of step 7, generator of step 7" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="is not empty: use another --out"):
        publish(workdir, published, "--current")
    with pytest.raises(CheckpointError, match="is not empty: use another --out"):
        publish(workdir, workdir)
    assert {p: p.stat().st_mtime_ns for p in published.rglob("*")} == before
    full = tmp_path / "full"
    write_text(full / "file", "mine")
    with pytest.raises(CheckpointError, match="is not empty"):
        publish(workdir, full)
    assert [p.name for p in tmp_path.iterdir()] == ["full"]


def test_damage_is_noticed(workdir, published, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(published, out)
    path = out / "tokenizer" / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    config = read_config(out)
    with pytest.raises(CheckpointError, match="not the file that was published"):
        build.load_tokenizer(config, out)
    with pytest.raises(CheckpointError, match="is not empty"):
        publish(workdir, out)
    path.unlink()
    with pytest.raises(CheckpointError, match="holds no trained tokenizer"):
        build.load_tokenizer(config, out)


def test_a_generator_of_another_tokenizer_is_refused(workdir, published, tmp_path):
    values = json.loads((published / "config.json").read_text(encoding="utf8"))
    assert read_records(published / "config.json")["generator"].tokenizer_sha256
    out = tmp_path / "out"
    shutil.copytree(published, out)
    values["published"]["stages"]["generator"]["tokenizer_sha256"] = "0" * 64
    write_text(out / "config.json", json.dumps(values))
    with pytest.raises(CheckpointError, match="was trained on the tokenizer 000"):
        publish(out, tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_killed_export_leaves_nothing_in_the_way(workdir, tmp_path):
    hidden = tmp_path / ".out.exporting"
    write_text(hidden / "generator" / "model.safetensors", "half")
    with (
        locks.lock_folder(hidden),
        pytest.raises(ConfigError, match="another process exports into"),
    ):
        publish(workdir, tmp_path / "out")
    publish(workdir, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_nothing(workdir, tmp_path, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("nbp.hub.publish.write_card", fail)
    with pytest.raises(Exception, match="the disk is full"):
        publish(workdir, tmp_path / "new" / "out")
    assert not list(tmp_path.iterdir())


def test_a_published_model_is_not_changed(published, tmp_path):
    from nbp.init_from import look_for_start
    from nbp.train_plan import plan_training
    from nbp.workdir import find_resume

    with pytest.raises(CheckpointError, match="cannot be trained on: make a workdir of it first"):
        plan_training(read_config(published), published)
    with pytest.raises(CheckpointError, match="cannot be resumed"):
        find_resume(published, tmp_path / "new")
    stage = dataclasses.replace(CONFIG.train.generator, start_from=str(published))
    config = dataclasses.replace(CONFIG, train=dataclasses.replace(CONFIG.train, generator=stage))
    with pytest.raises(CheckpointError, match=r"cannot be train\.generator\.start_from"):
        look_for_start(config, tmp_path / "new", "generator")


def test_flags_of_other_formats(workdir, tmp_path):
    common = ["--workdir", str(workdir), "--out", str(tmp_path / "out")]
    with pytest.raises(ConfigError, match="--license goes with --format safetensors"):
        export.main([*common, "--license", "mit"])
    with pytest.raises(ConfigError, match="name one as hubs do"):
        publish(workdir, tmp_path / "out", "--license", "my own licence")
