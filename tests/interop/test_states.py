# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The wanted network is found wherever a training script nested it; averages go first."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from nbp.interop.archives import OddTensor
from nbp.interop.mapping import Drop, Rule
from nbp.interop.official import split_state
from nbp.interop.states import find_state, set_aside


@dataclass(frozen=True, eq=False)
class Values:
    """A tensor; two of them are equal if they are the same."""

    values: Any

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def dtype(self) -> np.dtype:
        return self.values.dtype

    def read(self) -> np.ndarray:
        return self.values


def ones(*shape: int, dtype: Any = np.float32) -> Values:
    return Values(np.ones(shape, dtype))


NAMES = ("conv.weight", "conv.bias", "head.weight")
CURRENT = {name: ones(2, 3) for name in NAMES}
AVERAGED = {name: ones(2, 3) for name in NAMES}


def put(prefix: str, tensors=CURRENT) -> dict[str, Values]:
    return {prefix + name: value for name, value in tensors.items()}


def find(tensors):
    return find_state(tensors, lambda name: name in NAMES)


@pytest.mark.parametrize(
    "prefix",
    [
        *("", "module.", "module.module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."),
        *("state_dict.", "model.", "state_dict.model.", "model_state_dict.module.", "generator."),
        *("g_state.net._orig_mod.", "state.params.", "anything.at.all.", "0."),
        *("_modules.backbone._parameters.", "model._fsdp_wrapped_module."),
    ],
)
def test_wrappers_of_any_name_are_seen_through(prefix):
    others = {"optimizer.state.0.exp_avg": ones(3), "discriminator.conv.weights": ones(3)}
    state = find({**others, **put(prefix)})
    assert {n: state.tensors[n] for n in NAMES} == CURRENT
    assert state.notes == ()


def test_wrappers_inside_of_names_are_seen_through():
    inner = {"conv._orig_mod.weight": 0, "conv.module.bias": 1, "head._orig_mod.weight": 2}
    state = find({name: CURRENT[NAMES[i]] for name, i in inner.items()})
    assert state.tensors == CURRENT


@pytest.mark.parametrize(
    "prefix, averages",
    [
        ("model_state_dict.module.", "ema_model_state_dict.module.module."),
        ("state_dict.", "state_dict_ema."),
        ("model.", "ema."),
        ("", "ema."),
        ("module.", "module.ema."),
        ("state_dict.model.", "state_dict.ema_model."),
        ("generator.", "generator_ema."),
        ("G.", "G_ema."),
        ("params.", "params_ema."),
        ("model.", "swa_model.module."),
        ("online_model.", "ema_model."),
        ("model.", "ema.shadow."),
    ],
)
def test_averages_beside_current_weights_are_taken_and_said(prefix, averages):
    for tensors in (
        {**put(prefix), **put(averages, AVERAGED)},
        {**put(averages, AVERAGED), **put(prefix)},
    ):
        state = find(tensors)
        assert {n: state.tensors[n] for n in NAMES} == AVERAGED
        (note,) = state.notes
        assert "averaged weights (EMA" in note
        assert "3 of 3" in note


def test_averages_under_names_without_dots_are_found():
    flat = {f"model_ema.{n.replace('.', '')}": v for n, v in AVERAGED.items()}
    state = find({**put("model."), **flat, "model_ema.decay": ones()})
    assert {n: state.tensors[n] for n in NAMES} == AVERAGED


def test_what_has_no_average_comes_from_the_current_weights():
    part = {name: AVERAGED[name] for name in NAMES[:2]}
    state = find({**put("model."), **put("ema.", part)})
    assert state.tensors == {**CURRENT, **part}
    assert "2 of 3" in state.notes[0]


def test_averages_alone_are_said_as_well():
    state = find(put("ema."))
    assert state.tensors == CURRENT
    assert "only" in state.notes[0]


def test_a_network_that_is_not_there():
    state = find({"other.weight": ones(3)})
    assert (state.tensors, state.prefix) == ({}, None)


@pytest.mark.parametrize("outer", ["", "state_dict.", "state_dict.model.", "module."])
@pytest.mark.parametrize("inner", ["first_stage_model.", "first_stage_model.module.", "tok."])
@pytest.mark.parametrize("own", ["", "transformer.", "transformer._orig_mod."])
def test_generator_and_tokenizer_of_one_file_are_told_apart(outer, inner, own):
    generator = {"tok_emb.weight": ones(3, 2), "blocks.0.attn.mask": ones(2, 2)}
    tokenizer = {"encoder_layers.0.conv.weight": ones(5), "decoder_layers.0.conv.bias": ones(5)}
    state = split_state(
        {
            **{f"{outer}{own}{name}": value for name, value in generator.items()},
            **{f"{outer}{inner}{name}": value for name, value in tokenizer.items()},
            "optimizer.state.0.exp_avg": ones(3),
        }
    )
    assert set(generator) <= set(state.generator)
    assert not any("layers" in name for name in state.generator)
    assert state.tokenizer == tokenizer


# What is beside a network ------------------------------------------------------------------------

RULES = [Rule("conv.weight", "a"), Rule("conv.bias", "b"), Rule("head.weight", "c")]


@pytest.mark.parametrize(
    "extra",
    [
        np.array(2.0, np.float32),
        np.zeros((1, 1), np.float32),
        np.zeros(3, np.int64),
        np.zeros(3, bool),
        np.zeros(3, np.complex64),
        np.zeros(3, np.uint8),
    ],
)
def test_numbers_that_can_be_no_weights_are_set_aside_and_named(extra):
    kept, notes = set_aside({**CURRENT, "conv.extra": Values(extra)}, RULES, [])
    assert kept == CURRENT
    assert notes == ["not part of this network, left out: conv.extra"]


def test_other_modules_and_unreadable_tensors_are_set_aside(tmp_path):
    others = {"loss.conv.weight": ones(3, 3), "conv.q": OddTensor(tmp_path, "is sparse")}
    kept, notes = set_aside({**CURRENT, **others, "scale": ones(3)}, RULES, [])
    assert kept == CURRENT
    assert "loss.conv.weight, conv.q, scale" in notes[0]


def test_a_weight_inside_of_the_network_stays_and_is_refused_later():
    """It tells of another architecture."""
    kept, notes = set_aside({**CURRENT, "conv.gain": ones(3)}, RULES, [])
    assert "conv.gain" in kept
    assert notes == []
    drop = Drop("conv.mask", "computed")
    kept, notes = set_aside({**CURRENT, "conv.mask": ones(2, 2, dtype=bool)}, RULES, [drop])
    assert "conv.mask" in kept  # the rules have a reason of their own
