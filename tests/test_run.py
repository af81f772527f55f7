# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The library gives what the commands give: the same clips, codes and scores, the same mistakes."""

import gc
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nbp
from nbp import __main__ as nbp_main
from nbp import build, build_data, evaluate, sample
from nbp.data.video.decode import read_clip
from nbp.errors import CheckpointError, ConfigError
from nbp.evaluation import gallery
from nbp.flags import Parser
from nbp.metrics.psnr_ssim import psnr_per_clip
from nbp.run import Run, SampleOptions
from nbp.sampling.request import add_flags
from tests import tiny
from tests.data.videos import encode, make_clip
from tests.evaluated import add_generator, make_workdir
from tests.texts import COMMANDS, ROOT, load_command

CHANGES = {
    # Few passes and no filters: programs that are quick to compile.
    "generator.block": "frame",
    "generator.opening": "bov",
    "generator.opening_blocks": "1",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
    "sampling.batch": "4",
}


@pytest.fixture(autouse=True)
def few_clips_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recording two dozen clips for the page takes longer than scoring them."""
    monkeypatch.setattr(gallery, "EACH", 1)


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("library") / "runs" / "quickstart"
    return add_generator(make_workdir(folder, CHANGES))


@pytest.fixture(scope="module")
def run(workdir: Path) -> Run:
    return nbp.load(workdir)


def draw(workdir: Path, out: Path, *flags: Any) -> dict[str, np.ndarray]:
    """The arrays that the command leaves."""
    sample.main(["--workdir", str(workdir), "--out", str(out), *map(str, flags)])
    with np.load(out / "samples.npz") as arrays:
        return dict(arrays)


def list_files(folder: Path) -> dict[str, tuple[int, int]]:
    files = (path for path in folder.rglob("*"))
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in files}


def unchecked(method: Any) -> Any:
    """Without the checks of annotations that tests have, and users have not."""
    return inspect.unwrap(method)


def python(code: str, **options: Any) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=600, **options
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# Importing -------------------------------------------------------------------------------------


def test_importing_the_package_imports_nothing_large() -> None:
    code = "import sys, nbp; print({'jax', 'numpy', 'flax', 'nbp.run'} & set(sys.modules));"
    code += "assert {'load', 'Run', '__version__'} <= set(dir(nbp)); print(nbp.__version__);"
    code += "print(hasattr(nbp, 'lode'), callable(nbp.load), 'jax' in sys.modules)"
    assert python(code, cwd=ROOT).split("\n")[:3] == ["set()", nbp.__version__, "False True True"]


def test_a_run_says_what_it_is(run: Run, workdir: Path) -> None:
    assert (run.shape, run.grid) == ((5, 16, 16, 3), (3, 4, 4))
    assert len(run.labels) == 36
    assert run.labels == tuple(json.loads((workdir / "labels.json").read_text()))
    assert repr(run) == f"<Run {workdir}: clips of 5 x 16 x 16 x 3 as 3 x 4 x 4 codes, 36 labels>"


# Drawing ---------------------------------------------------------------------------------------

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("", {}),
    ("--num 3 --label 2 --seed 7", {"labels": 2, "num": 3, "seed": 7}),
    (
        "--num 3 --top_k 3 --top_p 0.9 --temperature 1.5 --guidance 2",
        {"num": 3, "top_k": 3, "top_p": 0.9, "temperature": 1.5, "guidance": 2.0},
    ),
    ("--num 5 --num_frames 14 --seed 1", {"num": 5, "num_frames": 14, "seed": 1}),
    ("--num 2 --num_frames 2", {"num": 2, "num_frames": 2}),
    (
        "--num 2 --num_frames 9 --anchor --keep_frames 2",
        {"num": 2, "num_frames": 9, "anchor": True, "keep_frames": 2},
    ),
    ("--num 2 --unconditional", {"num": 2, "unconditional": True}),
    ("--num 2 --label none", {"num": 2, "labels": "none"}),
    ("--num 2 --weights int8 --cache int8", {"num": 2, "weights": "int8", "cache": "int8"}),
]


@pytest.mark.parametrize("flags,options", REQUESTS, ids=[flags for flags, _ in REQUESTS])
def test_clips_are_those_of_the_command(
    run: Run, workdir: Path, tmp_path: Path, flags: str, options: dict[str, Any]
) -> None:
    videos = run.sample(**options)
    assert videos.dtype == np.uint8
    np.testing.assert_array_equal(videos, draw(workdir, tmp_path, *flags.split())["videos"])
    np.testing.assert_array_equal(videos, run.sample(**options))
    assert videos.shape[2:] == (16, 16, 3)


def test_several_labels_come_in_turn(run: Run, workdir: Path, tmp_path: Path) -> None:
    names = ["red square right", 5]
    mixed = run.sample(names, 5, seed=3)
    # Clip i depends on the seed, on i and on its own label alone.
    for i, name in enumerate(names):
        alone = draw(workdir, tmp_path / str(i), "--label", name, "--num", 5, "--seed", 3)
        np.testing.assert_array_equal(mixed[i::2], alone["videos"][i::2])
    ids: list[Any] = [run.labels[5], np.int64(5)]
    same = run.sample(labels=ids, num=2)
    np.testing.assert_array_equal(same, run.sample(labels=5, num=2))


def test_a_file_and_its_frames_are_continued_alike(run: Run, workdir: Path, tmp_path: Path) -> None:
    video = encode(tmp_path / "clip.mp4", make_clip(9, 16, 16), fps=8)
    flags = ("--frames", video, "--given_frames", 2, "--num", 3)
    told = draw(workdir, tmp_path / "out", *flags)
    options: dict[str, Any] = {"given_frames": 2}
    np.testing.assert_array_equal(told["videos"], run.sample(num=3, frames=video, **options))
    np.testing.assert_array_equal(told["videos"], run.sample(num=3, frames=str(video), **options))
    clip = read_clip(video, frames=3, start=0.0)
    found = run.sample(num=3, frames=clip, **options)
    np.testing.assert_array_equal(told["videos"], found)
    np.testing.assert_array_equal(run.encode(clip)[0], told["tokens"][0, :2])
    told = draw(workdir, tmp_path / "two", *flags[:4], "--samples_per_condition", 2)
    found = run.sample(frames=clip, samples_per_condition=2, **options)
    np.testing.assert_array_equal(told["videos"], found)
    # Each clip its own beginning; one latent frame of it by default.
    pair = np.stack([clip, 255 - clip])
    found = run.sample(frames=pair)
    assert found.shape == (2, 5, 16, 16, 3)
    begun = run.decode(run.encode(pair[:, :1]))
    np.testing.assert_allclose(found[:, :1], begun, atol=1)
    assert np.abs(begun[0].astype(int) - begun[1]).max() > 3


@pytest.mark.parametrize(
    "options,message",
    [
        ({"labels": "pink cube"}, "no label 'pink cube'; use 0..35 or one of"),
        ({"labels": ["red square right", "none"]}, "no label 'none'"),
        ({"labels": 36}, "labels: no class 36; use a name or 0 to 35"),
        ({"labels": []}, "labels: name at least one class"),
        ({"labels": [None]}, "labels: None is no class name and no id"),
        ({"labels": [1.0]}, r"labels: 1\.0 is no class name"),
        ({"num": 0}, "--num: 0 is not a whole number from 1"),
        ({"num": 2.5}, "--num: '2.5' is not a whole number from 1"),
        ({"top_k": True}, "--top_k: 'True' is not a whole number"),
        ({"seed": 2**32}, "--seed: 4294967296 is not a whole number"),
        ({"temperature": float("nan")}, "--temperature: 'nan' is not a number"),
        ({"temprature_end": 1}, "no option 'temprature_end'; did you mean temperature_end?"),
        ({"quality": 1}, "no option 'quality'; use one of num, per_class"),
        ({"features": "random-i3d"}, "no option 'features' in sample"),
        ({"weights": "int4"}, "--weights: invalid choice: 'int4'"),
        ({"unconditional": "yes"}, "--unconditional: ignored explicit argument 'yes'"),
        ({"labels": 0, "unconditional": True}, "--label and --unconditional: give one"),
        ({"num": 1, "per_class": 1}, "--num and --per_class: give one"),
        ({"anchor": True}, "--anchor is about videos longer than a clip of 5 frames"),
        ({"frames": np.zeros((5, 8, 8, 3), np.uint8)}, r"frames: uint8 \[5, 8, 8, 3\]; give"),
        ({"frames": np.zeros((5, 16, 16, 3))}, r"frames: float64 \[5, 16, 16, 3\]; give a file"),
        (
            {"frames": np.zeros((1, 16, 16, 3), np.uint8), "given_frames": 2},
            "frames: 1 frames are given, 3 are needed",
        ),
        (
            {"frames": np.zeros((2, 1, 16, 16, 3), np.uint8), "num": 3},
            "frames: 2 videos for 3 clips",
        ),
        ({"num": 1000000, "samples_per_condition": 1000}, "clips of 5 frames take .* GiB"),
    ],
)
def test_impossible_requests_for_clips(run: Run, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        unchecked(Run.sample)(run, **options)
    assert "\n" not in str(caught.value)


def test_every_flag_is_a_keyword() -> None:
    parser = Parser("nbp.sample")
    add_flags(parser)
    flags = {action.dest for action in parser._actions} - {"help", "features", "label"}
    named = {*Run.sample.__annotations__, *SampleOptions.__annotations__}
    assert named - {"labels", "options", "return"} == flags


def test_a_run_that_is_gone_leaves_no_parameters(workdir: Path) -> None:
    run = nbp.load(workdir)
    run.sample(num=1)
    run.sample(num=1, temperature=2.0)
    first, second = run._samplers.values()
    assert first.generator_params is second.generator_params
    watched = weakref.ref(first)
    del run, first, second
    gc.collect()
    assert watched() is None


# Codes -----------------------------------------------------------------------------------------


def test_codes_and_back(run: Run) -> None:
    video = run.sample(num=6)
    codes = run.encode(video)
    assert (codes.dtype, codes.shape) == (np.int32, (6, 3, 4, 4))
    network = build.make_tokenizer_network(run.config)
    params = build.load_tokenizer(run.config, run.workdir).params
    expected = np.asarray(network.encode(params, video))
    assert (codes == expected).mean() > 0.98  # other programs round otherwise
    found = run.decode(codes)
    assert (found.dtype, found.shape) == (np.uint8, video.shape)
    np.testing.assert_allclose(found, np.asarray(network.decode(params, codes)), atol=1)
    np.testing.assert_array_equal(run.encode(video[0]), codes[:1])
    np.testing.assert_allclose(run.decode(codes[0].astype(np.uint8)), found[:1], atol=1)
    # The tokenizer is causal: of longer and shorter videos it takes the same start.
    long = run.encode(np.concatenate([video, video[:, 1:]], axis=1))
    assert long.shape == (6, 5, 4, 4)
    assert (long[:, :3] == codes).mean() > 0.98
    assert run.decode(codes[:, :1]).shape == (6, 1, 16, 16, 3)


def test_drawn_codes_are_the_drawn_clips(run: Run, workdir: Path, tmp_path: Path) -> None:
    drawn = draw(workdir, tmp_path, "--num", 5, "--seed", 4)
    np.testing.assert_allclose(run.decode(drawn["tokens"]), drawn["videos"], atol=1)


def test_round_trips_have_the_psnr_of_the_evaluation(run: Run) -> None:
    clips = run.evaluate("reconstruction")
    _, held_out = build_data.make_data(run.config)
    rows = build_data.iterate_clips(run.config, held_out, limit=8, batch=8)
    video = next(rows)["video"]
    found = psnr_per_clip(video, run.decode(run.encode(video)))
    assert np.mean(found) == pytest.approx(clips["scores"]["psnr"], abs=0.01)


@pytest.mark.parametrize(
    "video,message",
    [
        (np.zeros((5, 16, 16, 3), np.float32), r"encode: float32 \[5, 16, 16, 3\]; give uint8"),
        (np.zeros((4, 16, 16, 3), np.uint8), "t = 5 or another 1 \\+ k \\* 2"),
        (np.zeros((5, 16, 8, 3), np.uint8), r"\[t 16 16 3\] or \[n t 16 16 3\]"),
        (np.zeros((16, 16, 3), np.uint8), "encode: uint8"),
        (np.zeros((0, 5, 16, 16, 3), np.uint8), "encode: uint8"),
        ("clip.mp4", "encode: <U8"),
    ],
)
def test_what_is_no_video(run: Run, video: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        unchecked(Run.encode)(run, video)


@pytest.mark.parametrize(
    "codes,message",
    [
        (np.zeros((3, 4, 4)), r"decode: float64 \[3, 4, 4\]; give whole numbers \[T 4 4\]"),
        (np.zeros((3, 4, 5), np.int32), "decode: int32"),
        (np.full((3, 4, 4), 16), "codes from 16 to 16; this tokenizer has those from 0 to 15"),
        (np.full((1, 3, 4, 4), -1), "codes from -1 to -1"),
    ],
)
def test_what_are_no_codes(run: Run, codes: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run.decode(codes)


# Scores ----------------------------------------------------------------------------------------


def test_scores_are_those_of_the_command_and_leave_nothing(
    run: Run, workdir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = list_files(workdir)
    lines: list[str] = []
    with monkeypatch.context() as patch:
        patch.setattr("nbp.progress.QUIET", -1.0)  # quick work has no lines else
        found = run.evaluate("moving-shapes", clips=6, seed=2, log=lines.append)
    assert list_files(workdir) == before
    assert lines
    file = tmp_path / "report.json"
    flags = ["--workdir", str(workdir), "--protocol", "moving-shapes", "--clips", "6"]
    evaluate.main([*flags, "--seed", "2", "--out", str(file)])
    told = json.loads(file.read_text())
    assert found.keys() == told.keys()
    assert found["scores"] == told["scores"]
    assert json.loads(json.dumps(found["deviations"])) == told["deviations"]
    run.evaluate("moving-shapes", clips=6, seed=2, write=True)
    written = json.loads((workdir / "report" / "moving-shapes.json").read_text())
    assert written["scores"] == told["scores"]
    assert (workdir / "report" / "index.html").is_file()


@pytest.mark.parametrize(
    "options,message",
    [
        ({"protocol": "moving-shape"}, "moving-shapes"),
        ({"clips": 0}, "--clips: 0 is not a whole number from 1"),
        ({"clips": 1.5}, "--clips: '1.5' is not"),
        ({"statistics": ["kvd", "kwd"]}, "kwd"),
        ({"statistics": ("kvd",)}, "--statistics kvd: these compare features"),
        ({"features": "/absent"}, "--features /absent: I3D needs clips of 9 frames"),
        ({"overrides": {"data.fsp": 8}}, "did you mean data.fps"),
        ({"out": "x.json"}, "no option 'out' in evaluate"),
        ({"clip": 1}, "no option 'clip'; did you mean clips"),
    ],
)
def test_impossible_evaluations(
    run: Run, workdir: Path, options: dict[str, Any], message: str
) -> None:
    before = list_files(workdir)
    asked: dict[str, Any] = {"protocol": "moving-shapes", **options}
    with pytest.raises(ConfigError, match=re.escape(message)):
        unchecked(Run.evaluate)(run, **asked)
    assert list_files(workdir) == before


# Workdirs --------------------------------------------------------------------------------------


def test_what_is_no_workdir(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no workdir: it has no config\.json"):
        nbp.load(tmp_path / "absent")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="cannot be read"):
        nbp.load(str(tmp_path))


def test_a_tokenizer_alone(tmp_path: Path) -> None:
    workdir = make_workdir(tmp_path / "run", CHANGES)
    run = nbp.load(workdir)
    assert run.labels == ()
    assert run.encode(np.zeros((5, 16, 16, 3), np.uint8)).shape == (1, 3, 4, 4)
    with pytest.raises(CheckpointError, match="holds no trained generator: run python -m"):
        run.sample()
    (workdir / "tokenizer").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="holds no trained tokenizer"):
        nbp.load(workdir)


# README ----------------------------------------------------------------------------------------


def test_the_snippet_of_the_readme_runs(workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "README.md").read_text("utf8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    assert len(snippet.splitlines()) == 10
    assert text[: text.index(snippet)].count("\n") < 35, "on the first screen"
    monkeypatch.chdir(workdir.parent.parent)
    values: dict[str, Any] = {}
    exec(compile(snippet, "README.md", "exec"), values)
    assert values["clips"].shape == (4, 5, 16, 16, 3)
    assert values["codes"].shape == (4, 3, 4, 4)
    assert "label_agreement" in values["scores"]


# The notebook ----------------------------------------------------------------------------------

NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def test_the_notebook_is_one_without_outputs() -> None:
    text = NOTEBOOK.read_text("utf8")
    notebook = json.loads(text)
    assert text == json.dumps(notebook, indent=1, ensure_ascii=False) + "\n"
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    cells = notebook["cells"]
    assert len({cell["id"] for cell in cells}) == len(cells)
    for cell in cells:
        assert cell["cell_type"] in ("code", "markdown")
        assert "".join(cell["source"]).strip()
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            assert cell["execution_count"] is None


SMALL = {
    "tokenizer.widths": "(4,4,8)",
    "tokenizer.units": "(0,0,0)",
    "tokenizer.groups": "2",
    "generator.layers": "1",
    "generator.heads": "2",
    "generator.width": "16",
    "train.tokenizer.optimizer": "adamw",
    "train.generator.optimizer": "adamw",
    "sampling.top_p": "1",
    "sampling.guidance": "0",
    "train.evaluate_every": "0",
    "train.preview_every": "0",
    "evaluation.protocol": "",
    "evaluation.samples": "0",
}


def test_the_notebook_runs_top_to_bottom(tmp_path: Path) -> None:
    cells = json.loads(NOTEBOOK.read_text("utf8"))["cells"]
    code = "\n\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    short = code.replace('configs/quickstart.py" ', 'configs/quickstart.py:smoke" ')
    assert short.count(":smoke") == 2, "in the comment and in the code"
    given = '"--config", CONFIG, '
    assert short.count(given) == 1
    # A smaller network of as many codes; what training draws and scores, other tests look at.
    short = short.replace(given, given + "".join(f'"--config.{k}={v}", ' for k, v in SMALL.items()))
    # Where the notebook would be opened, but for what it writes.
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "examples").mkdir()
    environment = tiny.make_environment(MPLBACKEND="Agg", PYTHONPATH=str(ROOT))
    done = subprocess.run(
        [sys.executable, "-c", short],
        cwd=tmp_path / "examples",
        env=environment,
        capture_output=True,
        text=True,
        timeout=1800,  # a minute where nothing else runs
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "(4, 9, 32, 32, 3) uint8" in done.stdout
    assert "(2, 25, 32, 32, 3)" in done.stdout
    decibels = re.search(r"27648 bytes become 192 codes, ([\d.]+) dB", done.stdout)
    assert decibels
    assert float(decibels[1]) > 10
    assert re.search(r"^label_agreement +\d", done.stdout, re.M)


# The command `nbp` -----------------------------------------------------------------------------


def call(*arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "nbp", *arguments],
        capture_output=True,
        text=True,
        timeout=600,
        **{"cwd": ROOT, **options},
    )


def test_the_command_lists_the_commands() -> None:
    assert set(nbp_main.COMMANDS) == set(COMMANDS)
    done = call("--help")
    assert done.returncode == 0
    for name in COMMANDS:
        module = load_command(name)
        first = " ".join((module.__doc__ or "").split("\n\n")[0].split())
        assert re.search(rf"^  {name} +{re.escape(first)}$", done.stdout, re.M)
    assert call("--version").stdout == f"nbp {nbp.__version__}\n"
    code = "import sys; from nbp.__main__ import dispatch; dispatch(['--help']);"
    assert python(code + "print('jax' in sys.modules)", cwd=ROOT).endswith("False\n")


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("trian",), "no command 'trian'; did you mean train?"),
        (("frobnicate",), "no command 'frobnicate'; use one of train, sample, "),
        ((), "name a command; use one of train, "),
        (("sample", "--workdir", "x", "--num", "0"), "--num: 0 is not a whole number"),
        (("export", "--workdir", "/absent", "--out", "/absent2"), "/absent is no workdir"),
    ],
)
def test_mistakes_of_the_command_are_one_line(arguments: tuple[str, ...], message: str) -> None:
    done = call(*arguments)
    assert done.returncode in (2, 4)
    (line,) = done.stderr.splitlines()
    assert re.match(r"nbp: \w+Error: ", line)
    assert message in line
    assert not done.stdout


def test_the_command_is_the_module(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    flags = ("--config", f"{ROOT}/{tiny.CONFIG}", "--workdir", "w")
    done = call("train", *flags, "--check", cwd=tmp_path, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "in order" in done.stdout
    assert not list(tmp_path.iterdir())
    assert call("report", "--help").stdout.startswith("usage: python -m nbp.report ")


def test_help_of_the_console_script_calls_commands_as_it_does() -> None:
    code = "import sys; sys.argv = ['/x/bin/nbp', 'train', '--help'];"
    text = python(code + "from nbp.__main__ import main; main()", cwd=ROOT)
    assert text.startswith("usage: nbp train ")
    assert "\n  nbp train --config configs/quickstart.py" in text
    assert "python -m" not in text


def test_the_package_has_its_data_and_its_command() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf8"))
    assert project["project"]["scripts"] == {"nbp": "nbp.__main__:main"}
    patterns = project["tool"]["setuptools"]["package-data"]["nbp"]
    shipped = {path for pattern in patterns for path in (ROOT / "nbp").glob(pattern)}
    present = {p for p in (ROOT / "nbp").rglob("*") if p.is_file() and p.suffix[:3] != ".py"}
    assert present == shipped
