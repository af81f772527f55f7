# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
import dataclasses
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nbp.config.parsing import list_keys
from nbp.config.schema import Config
from nbp.errors import ConfigError
from nbp.training.guards import SETTLED, WINDOW, Guards, GuardSpec, leave_out_non_finite
from tests.training.toy import ToyStream, ToyTask

PATIENCE = 5


def watch(values, metric="loss", **changes):
    """The alarms of a series of one metric (numbers, or dicts of several); updates count from 1."""
    guards = Guards(GuardSpec(**{"patience": PATIENCE, "code_warmup": 0, **changes}))
    rows = [value if isinstance(value, dict) else {metric: float(value)} for value in values]
    return [alarm for step, row in enumerate(rows, start=1) for alarm in guards.observe(step, row)]


def noise(count, seed=0):
    return np.exp(0.3 * np.random.default_rng(seed).normal(size=count)).tolist()


@pytest.mark.parametrize(
    "name,value",
    [
        ("loss_ratio", 0.5),
        ("gradient_ratio", -1.0),
        ("code_usage", 1.0),
        ("code_warmup", -1),
        ("accuracy", 0.5),
        ("patience", 0),
        ("rollbacks", -1),
        ("soften", 0.0),
        ("soften", 1.5),
    ],
)
def test_settings_out_of_range_are_named(name, value):
    with pytest.raises(ConfigError, match=rf"train\.guards\.{name} is {value}\. Use "):
        GuardSpec(**{name: value})


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("action", ["stop", "skip", "rollback"])
def test_any_number_that_is_not_finite_rings_at_once(bad, action):
    rows = [{"loss": 1.0, "discriminator_loss": 1.0}] * 3
    rows.append({"loss": 1.0, "discriminator_loss": bad})
    (alarm,) = watch(rows, non_finite=action)
    assert (alarm.kind, alarm.action, alarm.step, alarm.since) == ("non_finite", action, 4, 4)
    assert alarm.last_good == 3, "update 4 measured the state of step 3, a good one"
    assert f"discriminator_loss is {bad} at step 4. Lower the learning rate" in str(alarm)


@pytest.mark.parametrize("divergence,action", [("warn", "stop"), ("rollback", "rollback")])
def test_skipping_without_end_is_no_remedy(divergence, action):
    rows = [1.0] * 3 + [math.nan] * (PATIENCE - 1) + [1.0] + [math.nan] * PATIENCE
    alarms = watch(rows, non_finite="skip", divergence=divergence)
    assert [a.action for a in alarms] == ["skip"] * (2 * PATIENCE - 2) + [action]
    last = alarms[-1]
    assert (last.kind, last.since, last.step) == ("skipped", 4 + PATIENCE, len(rows))
    assert f"{PATIENCE} updates in a row were not finite" in str(last)


@pytest.mark.parametrize("metric,ratio", [("loss", 10.0), ("grad_norm", 100.0)])
def test_a_ratio_to_the_median_rings_after_its_patience(metric, ratio):
    healthy = noise(250)
    median = np.median(healthy[-WINDOW:])
    alarms = watch(healthy + [1.01 * ratio * median] * PATIENCE, metric)
    assert [(a.kind, a.action) for a in alarms] == [(metric, "warn")]
    assert (alarms[0].since, alarms[0].step) == (251, 250 + PATIENCE)
    assert alarms[0].last_good == 249, "update 251 measured the state of step 250, a bad one"
    assert f"over {ratio:g} times its usual {median:.4g} for {PATIENCE} updates" in str(alarms[0])
    assert not watch(healthy + [0.99 * ratio * median] * PATIENCE, metric)
    assert not watch(healthy + [1.01 * ratio * median] * (PATIENCE - 1) + healthy, metric)
    off = {"loss": "loss_ratio", "grad_norm": "gradient_ratio"}[metric]
    assert not watch(healthy + [1e9] * PATIENCE, metric, **{off: 0.0})


def test_a_young_run_and_a_falling_loss_are_left_alone():
    assert not watch([1e-3] * (SETTLED // 2 - 1) + [1e3] * 50)
    assert not watch([100.0 * 0.97**step for step in range(400)])
    assert not watch([0.0] * 400), "nothing is learned, but nothing explodes"


def test_one_alarm_per_explosion_and_the_new_level_is_the_new_measure():
    alarms = watch([*noise(100), *(100 * x for x in noise(200)), *(1e4 * x for x in noise(99))])
    assert [alarm.since for alarm in alarms] == [101, 301]


def test_the_loss_may_be_negative_as_adversarial_terms_make_it():
    wave = [0.1 * math.sin(step) - 0.02 for step in range(300)]
    assert not watch(wave)
    (alarm,) = watch(wave + [-30.0] * PATIENCE)
    assert alarm.since == 301


def adversary(**changes):
    usual = {"loss": 1.0, "adversarial_weight": 0.1, "discriminator_accuracy": 0.7}
    return {**usual, "discriminator_grad_norm": 1.0, **changes}


@pytest.mark.parametrize("pinned", [0.0, 0.009, 0.995, 1.0])
def test_a_pinned_discriminator(pinned):
    healthy, bad = [adversary()] * 30, [adversary(discriminator_accuracy=pinned)] * PATIENCE
    (alarm,) = watch(healthy + bad)
    assert (alarm.kind, alarm.since, alarm.step) == ("discriminator_accuracy", 31, 30 + PATIENCE)
    assert not watch(healthy + bad[1:] + healthy + bad[1:])
    assert not watch(healthy + bad, accuracy=0.0)
    assert not watch(healthy + [adversary(discriminator_accuracy=0.98)] * 100)


def test_a_discriminator_that_nobody_learns_from_is_left_alone():
    early = adversary(adversarial_weight=0.0, discriminator_accuracy=1.0)
    assert not watch([early] * 200)
    (alarm,) = watch([early] * 50 + [adversary(discriminator_accuracy=1.0)] * 50)
    assert alarm.since == 51


def test_the_discriminators_gradient_may_vanish_and_come_back():
    phases = [1.0] * 120 + [1e-6] * 300 + [1.0] * 200
    assert not watch([adversary(discriminator_grad_norm=value) for value in phases])
    (alarm,) = watch([adversary(discriminator_grad_norm=v) for v in [*phases, *[101.0] * 9]])
    assert (alarm.kind, alarm.since) == ("discriminator_grad_norm", 621)


def test_a_discriminator_far_worse_than_guessing():
    rows = [adversary(discriminator_loss=loss) for loss in [0.7] * 3 + [10.5] * PATIENCE]
    (alarm,) = watch(rows)
    assert (alarm.kind, alarm.since, alarm.step) == ("discriminator_loss", 4, 3 + PATIENCE)
    assert "discriminator_loss is 10.5, over 10 times that of guessing" in str(alarm)
    assert not watch([adversary(discriminator_loss=9.5)] * 100)
    assert not watch([row | {"adversarial_weight": 0.0} for row in rows])


def test_a_single_code_left_of_few():
    """A tenth of a perplexity of 5 would be less than the least there is."""
    rows = [4.0, 5.0, 4.0, *[1.3] * PATIENCE]
    (alarm,) = watch(rows, "code_perplexity")
    assert alarm.since == 4
    assert not watch([4.0, 5.0, 4.0, *[1.5] * PATIENCE], "code_perplexity")


@pytest.mark.parametrize("metric,least", [("code_usage", 0.0), ("code_perplexity", 1.0)])
def test_codes_that_fall_out_of_use(metric, least):
    rows = [*np.linspace(0.1, 0.9, 40), *[0.08] * PATIENCE, *[0.9] * 3, *[0.08] * 40]
    rows = [least + value for value in rows]
    alarms = watch(rows, metric)
    assert [(a.kind, a.since, a.step - a.since) for a in alarms] == [
        (metric, 41, PATIENCE - 1),
        (metric, 44 + PATIENCE, PATIENCE - 1),
    ], "once until it recovers"
    expected = f"is {least + 0.08:g}, below 0.1 of its best {least + 0.9:g} for 5 updates"
    assert expected in str(alarms[0])
    assert not watch([least + 0.9, *[least + 0.1] * 100], metric)
    assert not watch(rows, metric, code_usage=0.0)
    assert not watch([least + 0.01] * 100, metric), "never in use: no fall"


def test_codes_that_random_parameters_used_are_no_measure():
    """A tokenizer begins with many codes, gives most of them up, then finds better ones."""
    first = [119.0] * 10 + [12.0] * 90 + [20.0] * 20
    assert watch(first, "code_perplexity", code_warmup=0)
    assert not watch(first, "code_perplexity", code_warmup=100)
    (alarm,) = watch([*first, *[2.0] * PATIENCE], "code_perplexity", code_warmup=100)
    assert "its best 20" in str(alarm)
    assert (alarm.since, alarm.step) == (121, 120 + PATIENCE)


def test_what_divergence_leads_to():
    rows = [*noise(50), *[1e3] * PATIENCE]
    assert [a.action for a in watch(rows, divergence="warn")] == ["warn"]
    assert [a.action for a in watch(rows, divergence="rollback")] == ["rollback"]
    assert not watch(rows, divergence="ignore")
    assert len(watch([*rows, math.nan], divergence="ignore")) == 1


def test_restarted_guards_have_seen_nothing():
    guards = Guards(GuardSpec(patience=2))
    for step in range(1, 60):
        guards.observe(step, {"loss": 1.0})
    assert not guards.observe(60, {"loss": 1e3})
    guards.restart()
    assert not [alarm for step in range(61, 80) for alarm in guards.observe(step, {"loss": 1e3})]


def test_an_update_that_is_not_finite_changes_only_the_step():
    task = ToyTask()

    @jax.jit
    def update(state, batch):
        after, metrics = task.step(state, task.frozen, batch, jax.random.key(1))
        return *leave_out_non_finite(state, after, metrics), after

    stream = ToyStream(0, nan_at=[1])
    before = task.init(jax.random.key(0))
    good, metrics, plain = update(before, next(stream))
    assert float(metrics["skipped"]) == 0.0
    jax.tree.map(np.testing.assert_array_equal, good, plain)
    kept, metrics, plain = update(good, next(stream))
    assert float(metrics["skipped"]) == 1.0
    assert not np.isfinite(plain.params["out"]["kernel"]).any(), "it would have spoiled them"
    jax.tree.map(np.testing.assert_array_equal, kept, dataclasses.replace(good, step=jnp.int32(2)))
    assert int(plain.extra["seen"]) == 2 * int(kept.extra["seen"])


def test_remedies_name_the_keys_of_the_discriminator_where_it_is_to_blame():
    """Keys that exist, else the advice cannot be followed."""
    keys = set(list_keys(Config))
    rows = [{"loss": 1.0, "discriminator_loss": 1.0}] * 3
    for bad, named in (
        ({"discriminator_loss": math.nan}, {"adversarial.learning_rate"}),
        ({"loss": math.nan, "discriminator_loss": math.nan}, {"adversarial.learning_rate"}),
        ({"loss": math.nan}, set()),
    ):
        (alarm,) = watch([*rows, {**rows[0], **bad}])
        found = set(re.findall(r"adversarial\.[a-z_]+", alarm.remedy))
        assert found == named <= keys
    astray = [{"loss": 1.0, "discriminator_loss": 1.0}] * 30
    astray += [{"loss": 1.0, "discriminator_loss": 50.0}] * 3
    (alarm,) = watch(astray, patience=3)
    found = set(re.findall(r"adversarial\.[a-z_]+", alarm.remedy))
    assert "adversarial.learning_rate" in found <= keys
