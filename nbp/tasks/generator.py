# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Objective of the generator stage: predict the tokens of the next block."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from nbp import losses
from nbp.layout import SequencePlan, frames_of_latents
from nbp.models.generator import Generator, GeneratorNetwork
from nbp.models.tokenizer import TokenizerNetwork
from nbp.parallel.sharding import Axes
from nbp.shapes import Array, Float, Int, PyTree
from nbp.tasks.corrupted_context import CorruptedContext
from nbp.tasks.draft import DraftObjective, Drafts, make_drafts, score_drafts, score_one_by_one
from nbp.tasks.tokenizer import start_state
from nbp.training.layer_norms import mean_square, name_activations
from nbp.training.optimizer import (
    OptimizerSpec,
    accumulate_gradients,
    apply_gradients,
    average_micro_batches,
    find_storage,
    make_optimizer,
)
from nbp.training.precision import cast_to_storage
from nbp.training.state import TrainState

DRAFTS = 0xD4AF7  # the stream of random keys of drafts
CORRUPTION = 0xC0DE5  # that of corrupted context
BLOCKS = 0xB10C5  # that of the choice among several blocks


@dataclass(frozen=True)
class GeneratorTask:
    """Trains a `GeneratorNetwork` on the codes of a frozen tokenizer.

    A batch holds "video" (clips, encoded in the step) or "codes" [b T H W] of a token cache.

    frozen: {"tokenizer": parameters}, or {} where every batch holds codes. null_probability: share
    of clips whose prompt is replaced by the null condition (for guidance). loss_tokens: tokens of a
    device whose logits exist at one time. corruption: what replaces codes that training reads.
    draft: how a network with the draft channel learns it; None trains it, like any other, without
    drafts. further: plans of other blocks that the same parameters learn: with the chance
    further_share an update is of one of them. grids: the same for clips of other grids; an update
    is of the grid of its batch.
    """

    network: GeneratorNetwork
    tokenizer: TokenizerNetwork
    optimizer: OptimizerSpec
    frozen: PyTree
    null_probability: float = 0.0
    loss_tokens: int = 1024
    corruption: CorruptedContext | None = None
    draft: DraftObjective | None = None
    further: tuple[SequencePlan, ...] = ()
    further_share: float = 0.0
    grids: tuple["GeneratorTask", ...] = ()
    begin: Callable[[TrainState], TrainState] | None = None
    name: Literal["generator"] = "generator"

    @property
    def items_per_clip(self) -> dict[str, int]:
        """What one clip counts for in the loop's rates: predicted tokens."""
        return {"tokens": self.network.plan.target_count}

    @property
    def flops_per_clip(self) -> float:
        """See `GeneratorNetwork.flops_per_clip`; encoding clips in the step is not counted.

        The mean over the blocks of updates.
        """
        main, *others = (task.network.flops_per_clip for task in self.each_block())
        share = self.further_share if others else 0.0
        return (1.0 - share) * main + share * sum(others) / max(1, len(others))

    @property
    def axes(self) -> dict[str, Axes]:
        """Names of the axes of each parameter, by its path."""
        return self.network.axes

    def init(self, key: Array) -> TrainState:
        params = self.network.init(key)
        storage = find_storage(self.optimizer.groups, params)
        state = start_state(params, self.optimizer)
        return dataclasses.replace(state, params=cast_to_storage(params, storage))

    def with_statistics(self) -> "GeneratorTask":
        """The same task, whose metrics have norms and activations of each layer as well."""
        optimizer = dataclasses.replace(self.optimizer, statistics=True)
        return dataclasses.replace(self, optimizer=optimizer)

    def codes(self, frozen: PyTree, batch: Mapping[str, Array]) -> Int[Array, "b T H W"]:
        """The codes of a batch: those it holds, else those of its clips."""
        if "codes" in batch:
            return batch["codes"].astype(jnp.int32)
        return self.tokenizer.encode(frozen["tokenizer"], batch["video"])

    def on_grid(self, batch: Mapping[str, Array]) -> "GeneratorTask":
        """The task of the grid of a batch, whose shape tells it; ValueError for an unknown one."""
        if not self.grids:
            return self
        if "codes" in batch:
            found = tuple(batch["codes"].shape[1:])
        else:
            found = self.tokenizer.spec.grid(*batch["video"].shape[1:4]).shape
        for task in (dataclasses.replace(self, grids=()), *self.grids):
            if task.network.plan.grid.shape == found:
                return task
        raise ValueError(f"a batch of the grid {found}, of which this task knows no plan")

    def each_block(self) -> list["GeneratorTask"]:
        """The tasks of the network's own plan and of each further one."""
        tasks: list[GeneratorTask] = [dataclasses.replace(self, further=(), grids=())]
        for plan in self.further:
            network = dataclasses.replace(self.network, plan=plan)
            corruption = self.corruption and dataclasses.replace(self.corruption, plan=plan)
            tasks.append(dataclasses.replace(tasks[0], network=network, corruption=corruption))
        return tasks

    def step(
        self, state: TrainState, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        """One update. Metrics: loss (nats per token), bits_per_token, accuracy, accuracy_top5.

        A head of digits has no accuracy_top5. With drafts see `score_drafts`. Of several blocks
        each micro-batch is of one.
        """
        tasks = self.on_grid(batch).each_block()

        def choose(functions: list[Callable[..., PyTree]], *arguments: PyTree) -> PyTree:
            """The result of the chosen block's function of (params, batch, key)."""
            params, batch, key = arguments
            if len(functions) == 1:
                return functions[0](params, frozen, batch, key)
            index = self.choose_block(jax.random.fold_in(key, BLOCKS))
            return jax.lax.switch(index, functions, params, frozen, batch, key)

        loss_fn = partial(choose, [task.loss for task in tasks])
        after, metrics = update(self.optimizer, loss_fn, state, batch=batch, key=key)
        if self.optimizer.statistics:
            squares = average_micro_batches(
                partial(choose, [task.activations for task in tasks], state.params),
                batch=batch,
                key=key,
                accumulate=self.optimizer.accumulate,
            )
            metrics |= name_activations(squares)
        return after, metrics

    def choose_block(self, key: Array) -> Int[Array, ""]:
        """Which of `each_block` is trained: 0 for the network's own plan."""
        share_key, block_key = jax.random.split(key)
        other = jax.random.randint(block_key, (), 1, len(self.further) + 1)
        return jnp.where(jax.random.bernoulli(share_key, self.further_share), other, 0)

    def loss(
        self, params: PyTree, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[Array, dict[str, Array]]:
        """What a step lowers, with its metrics, in the blocks of the network's own plan."""
        codes, options = self._draw_inputs(frozen, batch, key)
        model, prompt = self.network.bind(params), self.network.prompt(batch)
        options |= {"weights": self.weigh_tokens(batch), "tokens": self.loss_tokens}
        if self.draft is None:
            return score(model, codes, prompt, **options)
        drafts = self.make_drafts(self.draft, codes, key)
        return score_drafts(model, codes, prompt, drafts, **options)

    def activations(
        self, params: PyTree, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> dict[str, Float[Array, ""]]:
        """Mean squares of the outputs of the transformer's blocks in the pass of `loss`."""
        codes, options = self._draw_inputs(frozen, batch, key)
        model, prompt = self.network.bind(params), self.network.prompt(batch)
        if self.draft is not None:
            options["drafts"] = self.make_drafts(self.draft, codes, key).ids
        return model.block_outputs(options.pop("read"), prompt, look=mean_square, **options)

    def _draw_inputs(
        self, frozen: PyTree, batch: Mapping[str, Array], key: Array
    ) -> tuple[Int[Array, "b size"], dict[str, Any]]:
        """The codes to predict; what is read, null conditions, and the key of the dropout."""
        null_key, drop_key = jax.random.split(key)
        codes = self.network.to_sequence(self.codes(frozen, batch))
        null = None
        if self.network.prompt(batch) is not None:
            null = jax.random.bernoulli(null_key, self.null_probability, codes.shape[:1])
        read = codes
        if self.corruption is not None:
            read = self.corruption(codes, jax.random.fold_in(key, CORRUPTION))
        return codes, {"read": read, "null": null, "key": drop_key}

    def weigh_tokens(self, batch: Mapping[str, Array]) -> Float[Array, "b n"] | None:
        """Counts the tokens of latent frames that begin under their clip's label; 0 for others.

        None, all count, where no label changes (no "label_from") or labels are no condition.
        """
        plan = self.network.plan
        if "label_from" not in batch or not plan.prompt_length:
            return None
        latents = plan.target_coordinates[plan.prompt_length :, 0]
        starts = [frames_of_latents(int(t), self.tokenizer.spec.stride[0]) for t in latents]
        return (np.array(starts) >= batch["label_from"][:, None]).astype(jnp.float32)

    def make_drafts(
        self, objective: DraftObjective, codes: Int[Array, "b size"], key: Array
    ) -> Drafts:
        """The drafts of a step, whose key this is."""
        stream = jax.random.fold_in(key, DRAFTS)
        hidden = self.network.vocabulary.codes
        return make_drafts(objective, self.network.plan, codes, hidden=hidden, key=stream)

    def evaluate(
        self, params: PyTree, frozen: PyTree, batch: Mapping[str, Array]
    ) -> tuple[dict[str, Array], Int[Array, "b T H W"]]:
        """The step's measures on clean codes, without dropout or null conditions, and the codes.

        Every draft is hidden. With the draft channel draft_bits_per_token is of `score_one_by_one`,
        the same places for the same number of clips. bits_self_drawn: bits per token where every
        code that is read is drawn by the model itself, each after the true ones before its block.
        bits_grid [T H W]: bits of each place of the grid, NaN where nothing is predicted.
        bits_NAME_blocks: bits per token in further blocks. All are means over the clips.
        """
        if (task := self.on_grid(batch)) is not self:
            return task.evaluate(params, frozen, batch)
        grids = self.codes(frozen, batch)
        codes = self.network.to_sequence(grids)
        model, prompt = self.network.bind(params), self.network.prompt(batch)
        states = model.hidden_states(codes, prompt)
        loss, metrics = score_states(model, states, codes, tokens=self.loss_tokens)
        nats, drawn = draw_context(
            model, states, codes, tokens=self.loss_tokens, key=jax.random.key(CORRUPTION)
        )
        again, _ = score(model, codes, prompt, read=drawn, tokens=self.loss_tokens)
        plan = self.network.plan
        places = jnp.full(plan.grid.size, jnp.nan)
        places = places.at[plan.first :].set(nats.mean(0) / losses.NATS_PER_BIT)
        metrics |= {
            "bits_self_drawn": again / losses.NATS_PER_BIT,
            "bits_grid": places[plan.inverse_order].reshape(plan.grid.shape),
        }
        for task in self.each_block()[1:]:
            order = task.network.to_sequence(grids)
            found = score(task.network.bind(params), order, prompt, tokens=self.loss_tokens)[1]
            metrics[f"bits_{task.network.plan.name}_blocks"] = found["bits_per_token"]
        if self.network.draft:
            key = jax.random.key(DRAFTS)
            metrics["draft_bits_per_token"] = score_one_by_one(
                model, codes, prompt, tokens=self.loss_tokens, key=key
            )
        return {"loss": loss, **metrics}, grids


def score(
    model: Generator,
    codes: Int[Array, "b size"],
    prompt: Int[Array, "b p"] | None,
    *,
    read: Int[Array, "b size"] | None = None,
    null: Array | None = None,
    key: Array | None = None,
    tokens: int = 1024,
    weights: Float[Array, "b n"] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """Loss in nats per scored token, and its companions (accuracies are shares 0..1).

    read: codes that the model reads in the place of the true ones, which it predicts. weights: of
    each scored token; None: all count alike.
    """
    states = model.hidden_states(codes if read is None else read, prompt, null=null, key=key)
    return score_states(model, states, codes, tokens=tokens, weights=weights)


def score_states(
    model: Generator,
    states: Float[Array, "b n d"],
    codes: Int[Array, "b size"],
    *,
    tokens: int,
    weights: Float[Array, "b n"] | None = None,
) -> tuple[Array, dict[str, Array]]:
    """As `score`, of the final states that predict the codes."""
    targets = model.targets(codes)
    loss, shares = model.head.score(
        states, targets, plan=model.plan, tokens=tokens, weights=weights
    )
    return loss, {"bits_per_token": loss / losses.NATS_PER_BIT, **shares}


def draw_context(
    model: Generator,
    states: Float[Array, "b n d"],
    codes: Int[Array, "b size"],
    *,
    tokens: int,
    key: Array,
) -> tuple[Float[Array, "b n"], Int[Array, "b size"]]:
    """Nats of each scored token, and codes drawn from the same predictions, given ones kept.

    states: the final ones that predict the codes.
    """
    head, plan = model.head, model.plan
    nats = head.nats(states, model.targets(codes), plan=plan, tokens=tokens)
    outside = model.vocabulary.code_offset - model.output_ids.start  # ids that are no codes
    drawn = head.sample(states, key, plan=plan, tokens=tokens, first=outside) - outside
    return nats, jnp.concatenate([codes[:, : plan.first], drawn], axis=1)


def update(
    optimizer: OptimizerSpec,
    loss_fn: Callable[..., tuple[Array, dict[str, Array]]],
    state: TrainState,
    *,
    batch: Mapping[str, Any],
    key: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """Accumulates gradients of `loss_fn(params, batch, key)` and applies one update."""
    loss, metrics, gradients = accumulate_gradients(
        loss_fn, state.params, batch=batch, key=key, accumulate=optimizer.accumulate
    )
    transform = make_optimizer(optimizer, state.params)
    state, norms = apply_gradients(state, gradients, optimizer=transform, spec=optimizer)
    return state, {"loss": loss, **metrics, **norms}
