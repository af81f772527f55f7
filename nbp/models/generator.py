# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The next-block generator: token embeddings, positions, transformer, head (REFERENCE 1.1).

Two recipes are built from the same parts. `paper_recipe` is the official network: learned absolute
positions starting at zero, 0.02 initialisation, a head over all ids. `modern_recipe` is ours: the
position of a query is the grid place it *predicts*, embeddings start ten times larger, and the head
covers the codes only, so that an id outside the video range cannot be drawn. With rotary positions
queries and keys turn by their places (`nbp.nn.rotary`), and no learned row is of one grid.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from nbp.layout import Positions, SequencePlan, Vocabulary
from nbp.models.heads import DigitHead, Head, HeadSpec, VocabularyHead
from nbp.models.joint_head import JointHead
from nbp.models.network import Network
from nbp.nn.attention.reference import AttentionBackend
from nbp.nn.rotary import (
    FramePositions,
    Rotation,
    make_frequencies,
    make_rotation,
    turn_angles,
)
from nbp.nn.transformer import (
    Initialisation,
    Look,
    Parts,
    Transformer,
    TransformerSpec,
    drop,
)
from nbp.parallel.cross_entropy import look_up
from nbp.parallel.sharding import Axes, gather
from nbp.shapes import Array, Bool, Float, Int, PyTree


class AbsolutePositions(nnx.Module):
    """One learned row per position, as in the official network."""

    def __init__(
        self, plan: SequencePlan, width: int, std: float, *, context: int, rngs: nnx.Rngs
    ) -> None:
        if plan.length > context:
            raise ValueError(f"sequence of {plan.length} positions exceeds the table of {context}")
        init = nnx.initializers.normal(std)
        self.plan = plan
        table = init(rngs.params(), (context, width), jnp.float32)
        self.table = nnx.Param(table, axes=(None, "embed"))

    def __call__(self) -> Float[Array, "n d"]:
        """Position embeddings of all L queries."""
        # Sliced before it is gathered: the table may be longer than the sequence.
        return gather(self.table[...][self.plan.positions], self.table.axes)


class TargetPositions(nnx.Module):
    """Sum of learned t, h, w rows of the grid position that a query predicts; own prompt rows."""

    def __init__(self, plan: SequencePlan, width: int, std: float, *, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(std)

        def table(rows: int) -> nnx.Param:
            return nnx.Param(init(rngs.params(), (rows, width), jnp.float32), axes=(None, None))

        self.plan = plan
        self.time, self.height, self.width = (table(rows) for rows in plan.grid.shape)
        self.prompt = table(plan.prompt_length) if plan.prompt_length else None

    def __call__(self) -> Float[Array, "n d"]:
        """Position embeddings of all L queries."""
        t, h, w = self.plan.target_coordinates[self.plan.prompt_length :].T
        rows = self.time[...][t] + self.height[...][h] + self.width[...][w]
        return rows if self.prompt is None else jnp.concatenate([self.prompt[...], rows])


@dataclass(frozen=True)
class Recipe:
    """What distinguishes `paper` from `modern`.

    positions: `(plan, width, std, rngs=...)` -> module whose call gives [L, C].
    output_ids: the ids that the head covers, from the vocabulary.
    rotary: whether queries and keys turn by their places too.
    """

    parts: Parts
    positions: Callable[..., Any]
    output_ids: Callable[[Vocabulary], range]
    rotary: bool = False


def score_all(vocabulary: Vocabulary) -> range:
    """The head covers special, prompt and video ids (official)."""
    return range(vocabulary.size)


def score_codes(vocabulary: Vocabulary) -> range:
    """The head covers the codes only."""
    return range(vocabulary.code_offset, vocabulary.size)


def paper_recipe(attention: AttentionBackend, *, context: int = 5120) -> Recipe:
    """The official network; `context` is the size of its position table."""

    def positions(plan: SequencePlan, width: int, std: float, *, rngs: nnx.Rngs) -> Any:
        return AbsolutePositions(plan, width, std, context=context, rngs=rngs)

    init = Initialisation(linear=0.02, embedding=0.02, position=0.0, residual=0.02)
    return Recipe(Parts(attention, init), positions, score_all)


def modern_recipe(
    attention: AttentionBackend, *, layers: int, positions: Positions = "learned"
) -> Recipe:
    """Target positions, embeddings of 0.2, residual writes scaled by 1/sqrt(2*layers) (GPT-2)."""
    init = Initialisation(
        linear=0.02, embedding=0.2, position=0.2, residual=0.02 / (2 * layers) ** 0.5
    )
    if positions == "rotary":
        return Recipe(Parts(attention, init), FramePositions, score_codes, rotary=True)
    return Recipe(Parts(attention, init), TargetPositions, score_codes)


class Generator(nnx.Module):
    """Predicts all tokens of the next block at once.

    Token sequences are in generation order (`plan.order`), as raw codes 0..codes-1 for callers and
    as vocabulary ids inside. `null` marks samples whose prompt is replaced by the trained null
    condition (classifier-free guidance). `padding` is a raw prompt id that no query attends.

    `draft` adds the draft channel (docs/blocks.md): each query also reads a draft of the token that
    it *predicts*, a code or `codes` for one that is hidden. Tokens that are drawn one by one are
    always hidden. Its table begins at zero, where it changes nothing.

    `head`: of digits; None predicts whole codes (`nbp.models.heads`).
    """

    def __init__(
        self,
        spec: TransformerSpec,
        plan: SequencePlan,
        vocabulary: Vocabulary,
        recipe: Recipe,
        *,
        padding: int | None = None,
        draft: bool = False,
        head: HeadSpec | None = None,
        rngs: nnx.Rngs,
    ) -> None:
        width, init = spec.width, recipe.parts.init
        normal = nnx.initializers.normal(init.embedding)
        self.plan = plan
        self.vocabulary = vocabulary
        self.output_ids = recipe.output_ids(vocabulary)
        self.spec = spec
        self.padding = padding
        self.rotary = recipe.rotary
        self.tokens = nnx.Param(
            normal(rngs.params(), (vocabulary.size, width), jnp.float32), axes=(None, "embed")
        )
        drafts = jnp.zeros((vocabulary.codes + 1, width), jnp.float32) if draft else None
        self.drafts = None if drafts is None else nnx.Param(drafts, axes=(None, "embed"))
        self.positions = recipe.positions(plan, width, init.position, rngs=rngs)
        null = nnx.initializers.normal(width**-0.5)
        prompted = plan.prompt_length > 0
        self.null_prompt = (
            nnx.Param(
                null(rngs.params(), (plan.prompt_length, width), jnp.float32), axes=(None, None)
            )
            if prompted
            else None
        )
        self.transformer = Transformer(spec, recipe.parts, rngs=rngs)
        self.head: Head
        if head is None:
            self.head = VocabularyHead(width, len(self.output_ids), init.linear, rngs=rngs)
        elif head.joint is None:
            self.head = DigitHead(width, head, init.linear, rngs=rngs)
        else:
            self.head = JointHead(spec, head, recipe.parts, rngs=rngs)

    def __call__(
        self,
        codes: Int[Array, "b size"],
        prompt: Int[Array, "b p"] | None = None,
        *,
        null: Bool[Array, "b"] | None = None,
        drafts: Int[Array, "b size"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b n v"]:
        """Teacher forcing: logits (float32) of every scored token, `plan.target_count` per clip.

        Arguments as in `hidden_states`.
        """
        return self.predict(self.hidden_states(codes, prompt, null=null, drafts=drafts, key=key))

    def hidden_states(
        self,
        codes: Int[Array, "b size"],
        prompt: Int[Array, "b p"] | None = None,
        *,
        null: Bool[Array, "b"] | None = None,
        drafts: Int[Array, "b size"] | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b n d"]:
        """Teacher forcing: the final states, in the compute type, that predict the scored tokens.

        Args:
          codes: all tokens of the clip in generation order.
          prompt: label or text ids 0..prompt-1, one row of `plan.prompt_length` per clip.
          null: True where the null condition stands in for the prompt.
          drafts: of each token, a code, or `codes` (hidden); None hides all. A model with the draft
            channel takes them.
          key: switches dropout on.
        """
        x, options = self._enter(codes, prompt, null=null, drafts=drafts, key=key)
        return self.transformer(x, self.plan.k_end, **options)[:, self.plan.prompt_length :]

    def block_outputs(
        self,
        codes: Int[Array, "b size"],
        prompt: Int[Array, "b p"] | None = None,
        *,
        look: Look,
        **options: Any,
    ) -> dict[str, PyTree]:
        """What `look` makes of the outputs of the blocks "transformer.0", ..., all L queries each.

        Arguments as in `hidden_states`.
        """
        x, rest = self._enter(codes, prompt, **options)
        found = self.transformer.block_outputs(x, self.plan.k_end, look, **rest)
        layers = range(self.spec.layers)
        return {f"transformer.{i}": jax.tree.map(lambda leaf, i=i: leaf[i], found) for i in layers}

    def _enter(
        self,
        codes: Array,
        prompt: Array | None,
        *,
        null: Array | None = None,
        drafts: Array | None = None,
        key: Array | None = None,
    ) -> tuple[Array, dict[str, Any]]:
        """The input of the first block, and the other arguments of the transformer."""
        ids = codes + self.vocabulary.code_offset
        key1, key2 = (None, None) if key is None else jax.random.split(key)
        table = self.input_table(ids, prompt)
        x = self.embed(table, 0, self.plan.length, null=null, drafts=drafts)
        x = drop(x, self.spec.dropout, key1)
        hidden = self.key_mask(prompt, null)
        rotation = self.rotation(0, self.plan.length)
        return x, {"key_mask": hidden, "rotation": rotation, "key": key2}

    def with_plan(self, plan: SequencePlan) -> "Generator":
        """The same parameters in another plan that they learned (`generator.blocks`)."""
        other = nnx.merge(*nnx.split(self))
        other.plan = other.positions.plan = plan
        return other

    def targets(self, codes: Int[Array, "b size"]) -> Int[Array, "b n"]:
        """The class index, among the head's outputs, of each scored token."""
        shift = self.vocabulary.code_offset - self.output_ids.start
        return codes[:, self.plan.first :] + shift

    # Pieces shared with decoding ---------------------------------------------------------------

    def input_table(
        self, ids: Int[Array, "b size"], prompt: Int[Array, "b p"] | None
    ) -> Int[Array, "b rows"]:
        """Vocabulary ids of everything that can be read: the table of `plan.input_index`."""
        batch = ids.shape[0]
        # See `generator.special_ids`: the last one stands for those that the table does not have.
        numbers = np.minimum(np.arange(self.plan.special_count), self.vocabulary.special - 1)
        special = jnp.asarray(numbers, ids.dtype)
        rows = [jnp.broadcast_to(special, (batch, special.size)), ids]
        if prompt is not None:
            rows.insert(0, prompt + self.vocabulary.prompt_offset)
        table = jnp.concatenate(rows, axis=1)
        expected = self.plan.prompt_length + self.plan.special_count + self.plan.grid.size
        if table.shape[1] != expected:
            given = 0 if prompt is None else prompt.shape[1]
            raise ValueError(
                f"prompt of {given} ids and {ids.shape[1]} tokens: this model takes a prompt of "
                f"{self.plan.prompt_length} and {self.plan.grid.size} tokens"
            )
        return table

    def embed(
        self,
        table: Int[Array, "b rows"],
        start: Array | int,
        width: int,
        *,
        null: Bool[Array, "b"] | None = None,
        drafts: Int[Array, "b size"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Input embeddings of the queries `[start, start + width)`; `start` may be traced.

        `drafts` as in `hidden_states`.
        """
        rows = jax.lax.dynamic_slice_in_dim(jnp.asarray(self.plan.input_index), start, width)
        x = look_up(self.tokens[...], table[:, rows])
        if null is not None and self.null_prompt is not None:
            x = self._replace_prompt(x, start, null)
        if self.drafts is not None or drafts is not None:
            x = x + self._embed_drafts(drafts, start, (table.shape[0], width))
        positions = jax.lax.dynamic_slice_in_dim(self.positions(), start, width)
        return (x + positions).astype(self.spec.dtype)

    def rotation(
        self, start: Array | int, width: int, *, later: Array | int | None = None
    ) -> Rotation | None:
        """By which the queries `[start, start + width)` and their keys turn; None for none.

        later: latent frames by which they stand later than in the plan. What all of them share
        changes nothing, prompt included.
        """
        if not self.rotary:
            return None
        frequencies = make_frequencies(self.spec.head_width)
        angles = (self.plan.rotary_coordinates @ frequencies).astype(np.float32)
        angles = jax.lax.dynamic_slice_in_dim(jnp.asarray(angles), start, width, 1)
        shift = None if later is None else turn_angles(later, self.spec.head_width)
        return make_rotation(angles, self.spec.heads, later=shift)

    def key_mask(
        self, prompt: Int[Array, "b p"] | None, null: Bool[Array, "b"] | None
    ) -> Bool[Array, "b n"] | None:
        """False at padded prompt positions, for all L keys; None where no key is hidden."""
        if self.padding is None or prompt is None:
            return None
        seen = prompt != self.padding
        if null is not None:
            seen = seen | null[:, None]  # the null condition fills every row
        rest = jnp.ones((seen.shape[0], self.plan.target_count), bool)
        return jnp.concatenate([seen, rest], axis=1)

    def _replace_prompt(self, x: Array, start: Array | int, null: Array) -> Array:
        """Puts the null condition where `null` samples read their prompt."""
        assert self.null_prompt is not None
        length = self.plan.prompt_length
        q = start + jnp.arange(x.shape[1])
        rows = self.null_prompt[...][jnp.minimum(q, length - 1)]
        return jnp.where(null[:, None, None] & (q < length)[None, :, None], rows, x)

    def _embed_drafts(
        self, drafts: Array | None, start: Array | int, shape: tuple[int, int]
    ) -> Array:
        """What the queries `[start, start + width)` read of the tokens that they predict.

        shape: (samples, width).
        """
        if self.drafts is None:
            raise ValueError("this model has no draft channel: train with generator.draft=True")
        target = jax.lax.dynamic_slice_in_dim(jnp.asarray(self.plan.target_index), start, shape[1])
        rows = jnp.full(shape, self.vocabulary.codes)
        if drafts is not None:
            shown = jnp.asarray(drafts)[:, target]
            rows = jnp.where(target >= self.plan.first_joint, shown, rows)
        # A prompt predicts nothing.
        return jnp.where((target >= 0)[:, None], look_up(self.drafts[...], rows), 0.0)

    def predict(self, x: Float[Array, "b n d"]) -> Float[Array, "b n v"]:
        """Logits in float32 over `output_ids`."""
        return require_vocabulary(self).predict(x)


def require_vocabulary(model: Generator, wanted: str = "logits of whole codes") -> VocabularyHead:
    """The head of a model that predicts whole codes; ValueError says what needs one."""
    if not isinstance(model.head, VocabularyHead):
        raise ValueError(f"{wanted}: only a model with generator.head=vocabulary has them")
    return model.head


@dataclass(frozen=True)
class GeneratorNetwork(Network[Generator]):
    """A generator without its parameters.

    texts: raw text ids per class, where the prompt is a text instead of the class id itself.
    padding, draft, head: see `Generator`.
    """

    optional: ClassVar[str] = "drafts"

    spec: TransformerSpec
    plan: SequencePlan
    vocabulary: Vocabulary
    recipe: Recipe
    texts: tuple[tuple[int, ...], ...] | None = None
    padding: int | None = None
    draft: bool = False
    head: HeadSpec | None = None

    def build(self, key: Array) -> Generator:
        return Generator(
            self.spec,
            self.plan,
            self.vocabulary,
            self.recipe,
            padding=self.padding,
            draft=self.draft,
            head=self.head,
            rngs=nnx.Rngs(key),
        )

    @property
    def axes(self) -> dict[str, Axes]:
        """Names of the axes of each parameter, by its path."""
        abstract = nnx.eval_shape(lambda: self.build(jax.random.key(0)))
        flat = nnx.to_flat_state(nnx.state(abstract))
        return {"/".join(str(part) for part in path): param.axes for path, param in flat}

    @property
    def flops_per_clip(self) -> float:
        """Operations that an update needs for a clip, multiplications and additions apart.

        A forward pass takes 2 for each weight of the layers and each query, 4 * width for each
        layer and each pair of a query and a key that it sees, and 2 for each weight of the head and
        each scored token (a joint head counts its own pairs too); the backward pass takes twice as
        many. What is computed again, masked or padded is not needed, and counts for nothing.
        """
        model = nnx.eval_shape(lambda: self.build(jax.random.key(0)))
        shapes = nnx.to_pure_dict(nnx.state(model))
        layers, _ = jax.tree_util.tree_flatten_with_path(shapes["transformer"])
        weights = sum(leaf.size for path, leaf in layers if path[-1].key == "kernel")
        pairs = float(np.sum(self.plan.k_end))
        forward = (
            2 * weights * self.plan.length
            + 4 * self.spec.width * self.spec.layers * pairs
            + model.head.count_flops(self.plan)
        )
        return 3.0 * forward

    def bind(self, params: PyTree) -> Generator:
        """The module holding `params` in pieces: each layer makes its own whole when it runs."""
        return self.merge(params)

    def prompt(self, batch: Mapping[str, Array]) -> Int[Array, "b p"] | None:
        """Prompt ids of a batch: label or text of its class, nothing without a condition."""
        if not self.plan.prompt_length:
            return None
        label = batch["label"]
        return label[:, None] if self.texts is None else jnp.asarray(self.texts)[label]

    def to_sequence(self, codes: Int[Array, "b T H W"]) -> Int[Array, "b size"]:
        """Grids of codes in generation order."""
        return codes.reshape(codes.shape[0], -1)[:, self.plan.order]

    def to_grid(self, codes: Int[Array, "b size"]) -> Int[Array, "b T H W"]:
        """The inverse of `to_sequence`."""
        return codes[:, self.plan.inverse_order].reshape(-1, *self.plan.grid.shape)
