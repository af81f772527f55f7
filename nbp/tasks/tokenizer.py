# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Objective of the tokenizer stage: reproduce clips through the quantizer."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from nbp import losses
from nbp.models.lpips import LpipsNetwork
from nbp.models.tokenizer import TokenizerNetwork, scale_pixels
from nbp.ranges import NonNegative, Positive
from nbp.shapes import Array, Float, PyTree
from nbp.tasks.adversary import Adversary, Kinds, average_kinds
from nbp.training.layer_norms import mean_square, name_activations
from nbp.training.optimizer import (
    OptimizerSpec,
    apply_gradients,
    average_micro_batches,
    make_optimizer,
)
from nbp.training.state import TrainState, make_state

# What a batch may hold: clips, and single images as clips of one frame.
KINDS = ("video", "image")

# (frozen arrays, output, input) -> mean distance of clips in [0, 1].
Perceptual = Callable[[PyTree, Array, Array], Array]


def structure_distance(frozen: PyTree, output: Array, pixels: Array) -> Array:
    """See `losses.structure`; needs no weights."""
    del frozen
    return losses.structure(output, pixels)


def lpips_distance(frozen: PyTree, output: Array, pixels: Array) -> Array:
    """LPIPS, mean over frames and clips; its parameters are `frozen["lpips"]`."""
    return jnp.mean(LpipsNetwork().distance(frozen["lpips"], output, pixels))


RECONSTRUCTION = {"l1": losses.l1, "l2": losses.l2, "charbonnier": losses.charbonnier}
PERCEPTUAL: dict[str, Perceptual] = {"structure": structure_distance, "lpips": lpips_distance}


@dataclass(frozen=True)
class Objective:
    """What an output is compared by: a weighted sum, without the adversarial term.

    The section `losses` of a configuration; see `nbp.losses` for each term.

    reconstruction: of output and input, both in [0, 1]. perceptual: the same seen by features.
      structure needs no weights (gradients and SSIM on several scales); lpips needs the folder that
      `nbp.convert lpips` wrote, `lpips_root`.
    quantizer_weight: of the quantizer's own terms (entropy of lfq, commitment of lfq and vq).
    """

    reconstruction: Literal["l1", "l2", "charbonnier"] = "charbonnier"
    reconstruction_weight: Positive = 1.0
    perceptual: Literal["none", "structure", "lpips"] = "none"
    perceptual_weight: NonNegative = 1.0
    lpips_root: str = ""
    quantizer_weight: NonNegative = 1.0

    def compare(
        self, outputs: Kinds, pixels: Kinds, frozen: PyTree
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        """Weighted sum of the comparisons, and each of them without its weight."""
        reconstruction = RECONSTRUCTION[self.reconstruction]
        measures = {"reconstruction": average_kinds(reconstruction, outputs, pixels)}
        total = self.reconstruction_weight * measures["reconstruction"]
        if self.perceptual != "none":
            distance = partial(PERCEPTUAL[self.perceptual], frozen)
            measures["perceptual"] = average_kinds(distance, outputs, pixels)
            total += self.perceptual_weight * measures["perceptual"]
        return total, measures


@dataclass(frozen=True)
class TokenizerTask:
    """Trains a `TokenizerNetwork`, alone or against an adversary that learns in the same step.

    A batch holds "video" (uint8 [b t h w c]), "image" (uint8 [n 1 h w c]) or both; losses average
    over clips and images, each counting once. frozen: parameters of the perceptual distance.
    """

    network: TokenizerNetwork
    optimizer: OptimizerSpec
    objective: Objective
    adversary: Adversary | None = None
    frozen: PyTree = field(default_factory=dict)
    begin: Callable[[TrainState], TrainState] | None = None
    name: Literal["tokenizer"] = "tokenizer"

    def init(self, key: Array) -> TrainState:
        extra = {} if self.adversary is None else self.adversary.init(jax.random.fold_in(key, 1))
        return start_state(self.network.init(key), self.optimizer, extra=extra)

    def with_statistics(self) -> "TokenizerTask":
        """The same task, whose metrics have norms and activations of each layer as well."""
        optimizer = dataclasses.replace(self.optimizer, statistics=True)
        return dataclasses.replace(self, optimizer=optimizer)

    def soften(self, state: TrainState, factor: float) -> TrainState:
        """The state whose adversarial weight is `factor` times as large; as it is without one."""
        if self.adversary is None:
            return state
        extra = {**state.extra, "scale": state.extra["scale"] * factor}
        return dataclasses.replace(state, extra=extra)

    def step(
        self, state: TrainState, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update of the tokenizer, of a moving-average codebook, and of the discriminator.

        The discriminator learns from the outputs of the pass that the tokenizer learns from.

        Metrics: loss (weighted sum of all terms), reconstruction, psnr (dB), code_usage (share
        0..1), code_perplexity, grad_norm, learning_rate; where there is one, perceptual and
        quantizer (its own loss) with the quantizer's measures; with an adversary adversarial (the
        generator's loss), adversarial_weight (all factors multiplied), discriminator_loss (without
        regularizer), discriminator_accuracy (0..1, 0.5 before it learns), discriminator_grad_norm.
        """

        def differentiate(rows: Mapping[str, Array], key: Array) -> PyTree:
            del key
            return self._differentiate(state, frozen, rows)

        average = partial(
            average_micro_batches,
            batch={kind: batch[kind] for kind in KINDS if kind in batch},
            key=key,
            accumulate=self.optimizer.accumulate,
        )
        found = average(differentiate)
        optimizer = make_optimizer(self.optimizer, state.params)
        after, norms = apply_gradients(
            state, found["gradients"], optimizer=optimizer, spec=self.optimizer
        )
        metrics = {
            **found["metrics"],
            **norms,
            "psnr": losses.psnr_of_error(found["squared_error"]),
            "code_usage": jnp.mean(found["histogram"] > 0),
            "code_perplexity": losses.perplexity(found["histogram"]),
        }
        if self.optimizer.statistics:
            squares = average(lambda rows, key: self._activations(state.params, rows))
            metrics |= name_activations(squares)
        params = self.network.update_codebook(after.params, found["statistics"])
        extra = state.extra
        if self.adversary is not None:
            extra, norm = self.adversary.update(
                extra, found["discriminator"], found["means"], step=state.step
            )
            metrics["discriminator_grad_norm"] = norm
        ema = self.network.share_codebook(params, after.ema)
        return dataclasses.replace(after, params=params, ema=ema, extra=extra), metrics

    def _activations(self, params: PyTree, rows: Kinds) -> dict[str, Array]:
        """Mean squares of the outputs of the layers, each clip and each image counting once."""
        model = self.network.bind(params)
        return average_trees(
            [(len(x), model.layer_outputs(scale_pixels(x), mean_square)) for x in rows.values()]
        )

    def _differentiate(self, state: TrainState, frozen: PyTree, rows: Kinds) -> dict[str, PyTree]:
        """Gradients, metrics and statistics of one micro-batch, from one pass each way.

        The loss is differentiated for the outputs first. So the weight of the adversarial term can
        depend on how strong it is, and one backward pass through the tokenizer serves all terms.
        """
        real = {kind: scale_pixels(clips) for kind, clips in rows.items()}

        def forward(params: PyTree) -> tuple[tuple[dict[str, Array], Array], PyTree]:
            model = self.network.bind(params)
            found = {kind: model.reconstruct(pixels) for kind, pixels in real.items()}
            penalties = {kind: one.penalty[None] for kind, one in found.items()}
            outputs = {kind: one.output for kind, one in found.items()}
            penalty = average_kinds(lambda _, penalty: penalty[0], outputs, penalties)
            return (outputs, penalty), found

        (outputs, penalty), pull_back, found = jax.vjp(forward, state.params, has_aux=True)
        compare = jax.value_and_grad(self.objective.compare, has_aux=True)
        (loss, metrics), pixels = compare(outputs, real, frozen)
        weight_of_penalty = jnp.full((), self.objective.quantizer_weight, penalty.dtype)
        loss += weight_of_penalty * penalty
        clipped = {kind: jnp.clip(output, 0.0, 1.0) for kind, output in outputs.items()}
        size = self.network.spec.make_quantizer().codes
        result: dict[str, PyTree] = {
            "squared_error": average_kinds(losses.l2, clipped, real),
            "histogram": sum(losses.code_histogram(one.codes, size) for one in found.values()),
            "statistics": average_trees(
                [(one.codes.size, one.statistics) for one in found.values()]
            ),
        }
        measures = average_trees([(len(one.codes), one.metrics) for one in found.values()])
        if measures:
            metrics |= {"quantizer": penalty, **measures}
        if self.adversary is not None:
            game = self.adversary.play(state.extra, real, outputs, step=state.step)
            weight = self.adversary.settings.weight * self.adversary.share(state.step)
            weight *= state.extra["scale"]
            if self.adversary.settings.adaptive:
                # Only the last layer of these backward passes is used, so the compiler drops the
                # rest of them.
                ends = [
                    last_kernel(pull_back((g, 0.0 * penalty))[0]) for g in (pixels, game["pixels"])
                ]
                weight *= losses.adaptive_weight(*ends)
            pixels = jax.tree.map(lambda g, a: g + weight * a, pixels, game["pixels"])
            loss += weight * game["loss"]
            metrics |= {"adversarial": game["loss"], "adversarial_weight": weight}
            metrics |= {k: game[k] for k in ("discriminator_loss", "discriminator_accuracy")}
            result |= {"discriminator": game["gradients"], "means": game["means"]}
        (gradients,) = pull_back((pixels, weight_of_penalty))
        return {**result, "gradients": gradients, "metrics": {"loss": loss, **metrics}}


def last_kernel(params: PyTree) -> Array:
    """The kernel of the decoder's output layer, in a tokenizer's parameters or their gradient."""
    decoder = params["decoder"]
    return decoder[max(decoder, key=int)]["kernel"]


def average_trees(parts: list[tuple[int, PyTree]]) -> PyTree:
    """The mean of trees of arrays with the weights before them."""
    total = sum(weight for weight, _ in parts)
    scaled = [jax.tree.map(lambda x, w=w: x * (w / total), tree) for w, tree in parts]
    return jax.tree.map(lambda *leaves: sum(leaves[1:], leaves[0]), *scaled)


def start_state(
    params: PyTree, optimizer: OptimizerSpec, *, extra: PyTree | None = None
) -> TrainState:
    """The state before the first update."""
    with_ema = optimizer.ema > 0
    return make_state(params, make_optimizer(optimizer, params), with_ema=with_ema, extra=extra)
