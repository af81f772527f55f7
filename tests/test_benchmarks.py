# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""What the benchmarks count, that they compare like with like, and that none stops the others."""

import json
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import attention, cross_entropy, run_all
from benchmarks.naive_sampling import draw_naively, draw_token
from benchmarks.run_all import Section
from benchmarks.tokenizer import count_pass_flops
from nbp.layout import LatentGrid, Opening, SequencePlan
from nbp.models.tokenizer import OFFICIAL_SPEC, TokenizerSpec
from nbp.nn.attention.reference import dense_attention
from nbp.sampling.generate import generate_ids
from nbp.sampling.settings import SamplingConfig
from tests.models.toy import draw_params, make_network


@pytest.mark.parametrize(
    "kind, clip, expected",
    [
        ("encode", (17, 128, 128), 4_470_771_023_872),
        ("decode", (17, 128, 128), 6_190_875_017_216),
        ("encode", (1, 128, 128), 318_672_207_872),
        ("decode", (5, 128, 128), 1_888_750_665_728),
    ],
)
def test_flops_of_the_official_tokenizer(kind, clip, expected):
    """Counted from the released PyTorch model (official/REFERENCE.md 4.6)."""
    assert count_pass_flops(kind, OFFICIAL_SPEC, clip) == expected


def test_a_gradient_counts_as_three_passes():
    spec, clip = TokenizerSpec((8, 8), (0, 1), ((1, 2, 2),), (4, 4), 4), (3, 8, 8)
    both = count_pass_flops("encode", spec, clip) + count_pass_flops("decode", spec, clip)
    assert count_pass_flops("gradient", spec, clip) == 3 * both


def test_the_naive_sampler_draws_what_ours_does():
    network = make_network(LatentGrid(3, 2, 2), (1, 1, 2), Opening("prefix"), codes=12)
    params = draw_params(network)
    known = np.random.default_rng(0).integers(0, 12, (2, 12), np.int32)
    naive = draw_naively(network, params, known, 4, top_k=1, top_p=1.0)
    options = {"known": known, "given": 4, "sampling": SamplingConfig(temperature=0.0)}
    ours = jax.jit(
        lambda params: generate_ids(
            network.bind(params), jax.random.key(0), jnp.arange(2), **options
        )
    )(params)
    np.testing.assert_array_equal(naive, ours)


def test_the_naive_draw_has_the_filters():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3]]))
    keys = jax.random.split(jax.random.key(0), 200)

    def draw(**filters) -> set[int]:
        return set(
            np.asarray(jax.vmap(lambda k: draw_token(k, logits, **filters)[0])(keys)).tolist()
        )

    assert draw(top_k=4, top_p=1.0) == {0, 1, 2, 3}
    assert draw(top_k=3, top_p=1.0) == {1, 2, 3}
    assert draw(top_k=4, top_p=0.5) == {1, 3}


@pytest.fixture
def tiny_attention(monkeypatch):
    plan = SequencePlan(LatentGrid(2, 2, 4), (1, 1, 4), Opening("hybrid"), 1)
    monkeypatch.setattr(attention, "PLAN", plan)
    monkeypatch.setattr(attention, "SIZES", {"base": (2, 8), "700m": (1, 4)})
    monkeypatch.setattr(attention, "measure_matmul", lambda *_, **__: 1e12)
    monkeypatch.setattr(attention, "time_calls", lambda *_, **__: {"seconds_median": 1e-6})


def test_attention_is_compared_on_useful_operations(tiny_attention, capsys):
    del tiny_attention
    assert attention.main(["--size", "base", "--repeats", "1"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["backend_name"] for row in rows] == ["prefix", "xla", "dense"]
    for row in rows:
        assert row["length"] == 17
        assert row["error"] < 1e-5
        for kind, products in (("forward", 2), ("both", 6)):
            # Pairs: the prompt 1, the opening 2..5, then rows of 4 queries: 9, 13, 17.
            useful = 2 * products * (1 + 14 + 4 * (9 + 13 + 17)) * 8 * 2
            assert row[f"{kind}_useful_gflops_per_s"] == pytest.approx(useful / 1e3, abs=0.05)
            assert row[f"{kind}_share_of_matmul"] == pytest.approx(useful / 1e6, abs=5e-4)


def test_a_wrong_backend_is_not_timed_and_the_others_are(tiny_attention, monkeypatch, capsys):
    del tiny_attention

    def forget_the_limits(q, k, v, k_end, key_mask=None):
        return dense_attention(q, k, v, np.full_like(k_end, k.shape[1]), key_mask)

    def make(name, **_):
        return forget_the_limits if name == "xla" else dense_attention

    monkeypatch.setattr(attention, "make_attention_backend", make)
    assert attention.main(["--size", "700m", "--repeats", "1"]) == 1
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    wrong = [row["backend_name"] for row in rows if "failed" in row]
    assert wrong == ["xla"]
    assert "differs from the dense mask" in rows[1]["failed"]
    assert rows[2]["both_seconds_median"] > 0


def test_both_ways_of_the_cross_entropy_have_the_same_loss(monkeypatch, capsys):
    monkeypatch.setattr(cross_entropy, "CODES", 64)
    sizes = ["--layers=1", "--width=8", "--heads=1", "--batch=1", "--repeats=1", "--remat=none"]
    for variant in cross_entropy.VARIANTS:
        cross_entropy.main([f"--variant={variant}", *sizes])
    plain, chunked = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (plain["tokens_at_a_time"], chunked["tokens_at_a_time"]) == (0, 158)
    assert chunked["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_a_section_that_fails_or_lasts_does_not_stop_the_others(tmp_path, monkeypatch, capfd):
    package = tmp_path / "benchmarks"
    package.mkdir()
    for name, code in {
        "__init__": "",
        "broken": "raise SystemExit(3)",
        "endless": "import time\nprint('a row', flush=True)\ntime.sleep(60)",
        "good": "import sys\nprint('arguments', *sys.argv[1:], flush=True)\nprint(ROW)",
    }.items():
        row = {"benchmark": "check", "name": "sum", "error": 1.23456789, "tolerance": 2.0}
        (package / f"{name}.py").write_text(code.replace("ROW", repr(json.dumps(row))))
    monkeypatch.chdir(tmp_path)
    arguments = {"base": "--size x"}
    sections = [Section(name, 2.0, arguments) for name in ("broken", "endless", "good")]
    assert run_all.main(["--size", "base", "--patience", "1.5"], sections) == 1
    lines = capfd.readouterr().out.splitlines()
    assert "a row" in lines
    assert "arguments --size x" in lines
    rows = [json.loads(line) for line in lines if line.startswith("{")]
    ends = [row["outcome"] for row in rows if row["benchmark"] == "run_all"]
    assert ends == ["failed", "out of time", "done"]
    assert "| sum | 1.235 | 2 |" in lines
    out = tmp_path / "out" / "rows.jsonl"
    for again in (False, True):
        assert run_all.main(["--size", "base", "--only", "good", "--out", str(out)], sections) == 0
        lines = capfd.readouterr().out.splitlines()
        assert ("arguments --size x" in lines) is not again
        assert "| sum | 1.235 | 2 |" in lines
    assert len(out.read_text().splitlines()) == 2


def test_what_a_section_starts_is_stopped_with_it(tmp_path, monkeypatch, capfd):
    package = tmp_path / "benchmarks"
    package.mkdir()
    (package / "__init__.py").write_text("")
    code = "import subprocess\nprint('begun', flush=True)\nsubprocess.run(['sleep', '60'])"
    (package / "parent.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    began = time.perf_counter()
    assert run_all.main(["--size", "base"], [Section("parent", 2.0, {"base": ""})]) == 1
    assert time.perf_counter() - began < 30
    assert "out of time" in capfd.readouterr().out


def test_the_budgets_of_all_sections_leave_room_in_eight_minutes():
    assert sum(section.seconds for section in run_all.SECTIONS) < 8 * 60 - 15
    assert all(set(s.arguments) == set(run_all.SIZES) for s in run_all.SECTIONS)
    assert run_all.find_backend() == jax.default_backend()
