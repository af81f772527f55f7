# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The other side of adversarial training: a discriminator, when it learns, and what it tells.

Clips are given by kind, {"video": [b t h w c], "image": [n 1 h w c]} or one of them; averages over
both count every clip and every image alike.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import optax

from nbp import losses
from nbp.models.discriminator import DiscriminatorNetwork
from nbp.ranges import Count, Natural, NonNegative, Positive, Share
from nbp.shapes import Array, Bool, Float, Int, PyTree
from nbp.training.optimizer import OptimizerSpec, make_optimizer

Kinds = Mapping[str, Array]


@dataclass(frozen=True)
class Verdicts:
    """What a regularizer looks at: one kind of clips, what is said of them, and who says it.

    judge: clips -> logits. averages: of LeCam, from before the update.
    """

    judge: Callable[[Array], Array]
    clips: Array
    real: Array
    fake: Array
    averages: Mapping[str, Array]


Regularizer = Callable[[Verdicts], Float[Array, ""]]


def no_regularizer(verdicts: Verdicts) -> Float[Array, ""]:
    """Leaves the discriminator as it is."""
    del verdicts
    return jnp.zeros((), jnp.float32)


def lecam_regularizer(verdicts: Verdicts) -> Float[Array, ""]:
    """See `losses.lecam`."""
    return losses.lecam(verdicts.real, verdicts.fake, verdicts.averages)


def r1_regularizer(verdicts: Verdicts) -> Float[Array, ""]:
    """See `losses.r1`; a clip's verdict is the mean of its logits."""
    return losses.r1(lambda x: jnp.mean(verdicts.judge(x), axis=(1, 2, 3)), verdicts.clips)


OBJECTIVES = {"hinge": losses.HINGE, "non_saturating": losses.NON_SATURATING}
REGULARIZERS: dict[str, Regularizer] = {
    "none": no_regularizer,
    "r1": r1_regularizer,
    "lecam": lecam_regularizer,
}


@dataclass(frozen=True)
class AdversarySettings:
    """The discriminator (3D PatchGAN) of the tokenizer stage; weight 0 trains without one.

    The section `adversarial` of a configuration.

    adaptive: multiplies the weight by the ratio of the gradient norms of reconstruction and
      adversarial term at the last layer (Esser et al. 2021, arXiv 2012.09841).
    start, warmup: the term is off until step `start` and grows over `warmup` steps; the
      discriminator itself learns from step `start - warmup` on.
    regularizer: r1 (arXiv 1801.04406) or lecam (arXiv 2104.03310).
    widths: channels of the convolutions; all but the last halve every axis.
    learning_rate: peak of the discriminator's Adam, with schedule, warm-up and clipping of the
      stage, over the updates that it makes. b1, b2: its moments.
    """

    weight: NonNegative = 0.0
    objective: Literal["hinge", "non_saturating"] = "hinge"
    adaptive: bool = True
    start: Natural = 0
    warmup: Natural = 0
    regularizer: Literal["none", "r1", "lecam"] = "lecam"
    regularizer_weight: NonNegative = 0.001
    widths: tuple[Count, ...] = (64, 128, 256, 512)
    learning_rate: Positive = 1e-4
    b1: Share = 0.5
    b2: Share = 0.9


@dataclass(frozen=True)
class Adversary:
    """A discriminator, its optimizer, and when and how much it is listened to.

    optimizer: the discriminator's own; its schedule counts the discriminator's updates.
    """

    network: DiscriminatorNetwork
    optimizer: OptimizerSpec
    settings: AdversarySettings

    def init(self, key: Array) -> dict[str, PyTree]:
        """What is carried from step to step (`TrainState.extra`).

        discriminator: parameters; opt_state: of its optimizer; lecam: average logits {"real",
        "fake"}; scale: factor of the adversarial weight, 1 at first.
        """
        params = self.network.init(key)
        zero = jnp.zeros((), jnp.float32)
        return {
            "discriminator": params,
            "opt_state": make_optimizer(self.optimizer, params).init(params),
            "lecam": {"real": zero, "fake": zero},
            "scale": jnp.ones((), jnp.float32),
        }

    def share(self, step: Int[Array, ""]) -> Float[Array, ""]:
        """Share 0..1 of the weight: 0 before `start`, then rising to 1 over `warmup` steps."""
        start, warmup = self.settings.start, self.settings.warmup
        risen = jnp.asarray(step - start + 1, jnp.float32) / max(warmup, 1)
        return jnp.clip(risen, 0.0, 1.0)

    def learns(self, step: Int[Array, ""]) -> Bool[Array, ""]:
        """The discriminator has `warmup` steps to itself before the first one that listens."""
        return jnp.asarray(step >= self.settings.start - self.settings.warmup)

    def play(self, extra: PyTree, real: Kinds, outputs: Kinds, *, step: Array) -> PyTree:
        """What both sides learn from one set of clips and the tokenizer's outputs for them.

        Returns a dict: loss: the generator's; pixels: its gradient for `outputs`; gradients: of the
        discriminator's loss for its parameters alone; and the discriminator's discriminator_loss
        (without regularizer), discriminator_accuracy and mean logits, means {"real", "fake"}.
        Before the discriminator learns nothing is computed: zeros, and the accuracy of guessing.
        """

        objective = OBJECTIVES[self.settings.objective]

        def look() -> PyTree:
            def deceive(outputs: Kinds) -> Array:
                model = self.network.bind(extra["discriminator"])
                return average_kinds(lambda x: objective.generator(model(x)), outputs)

            loss, pixels = jax.value_and_grad(deceive)(dict(outputs))
            learn = jax.value_and_grad(self._tell_apart, has_aux=True)
            (_, measures), gradients = learn(
                extra["discriminator"], extra["lecam"], real=real, outputs=outputs
            )
            return {"loss": loss, "pixels": pixels, "gradients": gradients, **measures}

        def look_away() -> PyTree:
            shapes = jax.eval_shape(look)
            zeros = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
            return {**zeros, "discriminator_accuracy": jnp.full((), 0.5, jnp.float32)}

        return jax.lax.cond(self.learns(step), look, look_away)

    def _tell_apart(
        self, params: PyTree, averages: Mapping[str, Array], *, real: Kinds, outputs: Kinds
    ) -> tuple[Array, dict[str, PyTree]]:
        """The discriminator's loss with its regularizer, and its measures."""
        model = self.network.bind(params)
        on_real = {kind: model(clips) for kind, clips in real.items()}
        on_fake = {kind: model(clips) for kind, clips in outputs.items()}
        loss = average_kinds(OBJECTIVES[self.settings.objective].discriminator, on_real, on_fake)

        regularizer = REGULARIZERS[self.settings.regularizer]

        def regularize(clips: Array, real: Array, fake: Array) -> Array:
            return regularizer(Verdicts(model, clips, real, fake, averages))

        penalty = average_kinds(regularize, real, on_real, on_fake)
        return loss + self.settings.regularizer_weight * penalty, {
            "discriminator_loss": loss,
            "discriminator_accuracy": average_kinds(
                losses.discriminator_accuracy, on_real, on_fake
            ),
            "means": {
                "real": average_kinds(jnp.mean, on_real),
                "fake": average_kinds(jnp.mean, on_fake),
            },
        }

    def update(
        self, extra: PyTree, gradients: PyTree, means: Mapping[str, Array], *, step: Array
    ) -> tuple[PyTree, Float[Array, ""]]:
        """The next `extra`, and the norm of the gradients before clipping.

        Nothing changes before the discriminator learns: neither parameters nor its optimizer.
        """
        params = extra["discriminator"]
        optimizer = make_optimizer(self.optimizer, params)
        updates, opt_state = optimizer.update(gradients, extra["opt_state"], params)
        updated = {
            "discriminator": optax.apply_updates(params, updates),
            "opt_state": opt_state,
            "lecam": losses.update_lecam(extra["lecam"], means),
            "scale": extra["scale"],
        }
        learns = self.learns(step)
        kept = jax.tree.map(lambda new, old: jnp.where(learns, new, old), updated, dict(extra))
        return kept, optax.tree.norm(gradients)


def average_kinds(function: Callable[..., Array], *parts: Kinds) -> Array:
    """The mean of `function`, a mean over clips itself, over all clips of all kinds."""
    total = sum(len(rows) for rows in parts[0].values())
    weighted = (
        function(*(part[kind] for part in parts)) * (len(rows) / total)
        for kind, rows in parts[0].items()
    )
    return sum(weighted, jnp.zeros((), jnp.float32))
