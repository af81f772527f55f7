# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Every key that a configuration can set, with its default: `a.b` is field `b` of section `a`."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, Literal

from nbp.data import prompts
from nbp.data.moving_shapes import MovingShapesSpec, ShapesContent
from nbp.layout import (
    Box,
    LatentGrid,
    Opening,
    Partition,
    Positions,
    SequencePlan,
    Vocabulary,
    resolve_block,
)
from nbp.models.heads import HeadKind, HeadSpec, JointHeadSettings
from nbp.models.tokenizer import TokenizerSpec
from nbp.nn.attention.choose import Choice as AttentionChoice
from nbp.ranges import Count, DType, Natural, NonNegative, Positive, Range, Seed, Share
from nbp.sampling.settings import SamplingConfig
from nbp.tasks.adversary import AdversarySettings
from nbp.tasks.corrupted_context import CorruptedContext, CorruptionSettings
from nbp.tasks.draft import DraftObjective
from nbp.tasks.tokenizer import Objective
from nbp.tracking.packages import TrackerName
from nbp.training.guards import GuardSpec
from nbp.training.optimizer import OptimizerSettings

StageName = Literal["tokenizer", "generator"]  # in their order; see `nbp.stages`


@dataclass(frozen=True)
class ShapesConfig(ShapesContent):
    """Content of moving shapes, and how many there are.

    train_clips: distinct training clips, the length of an epoch.
    """

    train_clips: Count = 1_000_000


@dataclass(frozen=True)
class MixedData:
    """A further data set that a run learns from.

    weight: clips of it for each clip of `data.root`. root, kind: as in `data`; "" is the same kind.
    """

    root: str = ""
    weight: Positive = 1.0
    kind: Literal["", "moving_shapes", "folder", "records", "tokens"] = ""


@dataclass(frozen=True)
class DataConfig:
    """Where clips come from and what they look like: uint8 [frames, size, size, 3].

    width: of the frames where they are no squares; `size` is their height then. 0: squares.
    grids: further clips (frames, height, width) that one run learns, docs/data.md. Each update is
      of one kind: grid_shares are the chances of these, the rest is of `frames` and `size`; () for
      equal ones of all.

    root: the folder of class sub-folders (kind `folder`), the dataset that `nbp.prepare` wrote
      (`records`), or the cache that `nbp.encode` wrote (`tokens`, for the generator stage). `~` and
      variables such as $HOME are replaced in this and all other paths.
    fps: frame rate that clips are resampled to; 0 keeps each file's own.
    spatial: short side to `size` and a square crop (random in training, else centred); squash both
      sides; or random_crop, which cuts the square from frames 1.5 times larger.
    flip: mirror half of the training clips.
    validation: share of videos held out (`folder`); 0 evaluates on the training videos.
    validation_split: the held-out split (`records`, `tokens`), by default validation, else test.
    check: decode every file once at start ("frames"), or trust its header ("headers").
    validation_clips: the largest number of clips that an evaluation looks at.
    workers: loader processes; 0 loads in threads of the main process.
    bad_records: a clip that cannot be read is replaced by another and counted, or stops the run.
    mix: further data sets, of whose clips all are trained on; held-out ones are of `root` alone.
      Classes of equal names are one (docs/data.md).
    balance: classes are drawn equally often within each set, however many clips each has.
    """

    kind: Literal["moving_shapes", "folder", "records", "tokens"]
    frames: Count
    size: Count
    root: str = ""
    fps: NonNegative = 0.0
    spatial: Literal["crop", "squash", "random_crop"] = "crop"
    flip: bool = False
    validation: Share = 0.1
    validation_split: str = ""
    check: Literal["frames", "headers"] = "frames"
    validation_clips: Count = 256
    workers: Natural = 0
    stall_seconds: Positive = 300.0
    bad_records: Literal["replace", "stop"] = "replace"
    moving_shapes: ShapesConfig = ShapesConfig()
    width: Natural = 0
    grids: tuple[Box, ...] = ()
    grid_shares: tuple[Share, ...] = ()
    mix: tuple[MixedData, ...] = ()
    balance: bool = False

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of a frame."""
        return self.size, self.width or self.size

    @property
    def clip(self) -> Box:
        """(frames, height, width) of a clip."""
        return (self.frames, *self.sides)


@dataclass(frozen=True)
class ImagesConfig:
    """Single images that the tokenizer learns from beside the clips, as clips of one frame.

    batch: images per update, 0 for none. root: folder of image files; empty takes single frames of
    the training clips' videos.
    """

    batch: Natural = 0
    root: str = ""


@dataclass(frozen=True)
class GeneratorConfig:
    """The next-block generator.

    positions: of the modern recipe: learned rows of t, h and w, or rotary, which are of no one grid
      or length (docs/layout.md).
    block: token, row, frame or a box (bt, bh, bw) that divides the latent grid. partition: whether
      a block is this box, or as many places of the frame that lie apart (strided, halton); see
      `nbp.layout.SequencePlan.order`.
    blocks: further blocks that the same weights learn; `sampling.block` chooses one of all. Each
      update is of one block: with the chance blocks_share one of these, else `block`.
    opening: prefix, bov or hybrid; opening_blocks: length of hybrid's token-by-token part in
      blocks, or "frame" for the blocks that cover the first latent frame.
    prompt: none, label (class id) or text (of a UCF101 class name, 8 ids); null_probability: share
      of clips trained without it. padding: whether attention sees the padding of a text.
    attention: auto is the fastest for the backend (splash on TPUs, on GPUs mosaic or else pallas,
      else prefix); mosaic and cudnn need bfloat16. xla and dense compute hidden scores too and
      keep them.
    context: rows of the position table (paper recipe).
    special_ids: ids that begin a clip (begin-of-video, middle tokens): 0 has as many as the largest
      block of all grids. The last one stands for all that are missing.
    corruption: wrong codes among those that are read in training.
    draft: whether blocks can be refined in several passes (docs/blocks.md). A trained generator can
      get or lose it. draft_training: how it is learned.
    head: vocabulary predicts whole codes, all of a block at once; digits the digits of codes (FSQ
      levels, LFQ bits), all at once; joint one after the other, each knows those before it
      (docs/blocks.md). joint_head: its size.
    """

    layers: Count
    heads: Count
    width: Count
    recipe: Literal["modern", "paper"] = "modern"
    positions: Positions = "learned"
    block: str | Box = "row"
    partition: Partition = "box"
    blocks: tuple[str | Box, ...] = ()
    blocks_share: Share = 0.5
    opening: Literal["prefix", "bov", "hybrid"] = "hybrid"
    opening_blocks: int | Literal["frame"] = 1
    prompt: Literal["none", "label", "text"] = "none"
    padding: Literal["hidden", "visible"] = "hidden"
    null_probability: Share = 0.1
    dropout: Share = 0.0
    dtype: DType = "float32"
    attention: AttentionChoice = "auto"
    context: Count = 5120
    special_ids: Natural = 0
    corruption: CorruptionSettings = field(default_factory=CorruptionSettings)
    draft: bool = False
    draft_training: DraftObjective = field(default_factory=DraftObjective)
    head: HeadKind = "vocabulary"
    joint_head: JointHeadSettings = field(default_factory=JointHeadSettings)


@dataclass(frozen=True, kw_only=True)
class StageConfig(OptimizerSettings):
    """Optimization of one stage. One step is one update of `batch` clips.

    grid_batches: clips of an update of each of `data.grids`; () for about as many tokens as in
      `batch`: half, a quarter, twice as many clips, ...
    start_from: workdir whose parameters this stage starts from; empty starts from scratch.
    keep_best: score whose best checkpoint is saved and kept, such as validation/loss; `nbp.sample
      --checkpoint best` draws with it (docs/guard_rails.md).
    early_stop: evaluations in a row without a better score after which the stage ends; 0: none.
    statistics_every: updates between norms of gradients, updates and parameters of each layer,
      and sizes of its outputs; 0 for none.
    """

    batch: Count
    grid_batches: tuple[Count, ...] = ()
    start_from: str = ""
    keep_best: str = ""
    early_stop: Natural = 0
    statistics_every: Natural = 0


@dataclass(frozen=True)
class TrainConfig:
    """Cadence in steps, shared by the stages; 0 switches a periodic action off.

    changed_data: what to do where the data are not those of the checkpoint that is resumed.
    profile_steps: first and last update of each stage that are recorded in `<stage>/profile/`, for
      TensorBoard or Perfetto; () for none.
    max_hours: time after which a run saves and ends as if it were preempted, with exit code 143;
      the same command goes on. Counted from each start, looked at between updates; 0 for no end.
    tracking: where metrics go beside `metrics.csv`: tensorboard, wandb, mlflow, trackio
      (docs/tracking.md).
    """

    tokenizer: StageConfig
    generator: StageConfig
    log_every: Count = 50
    checkpoint_every: Count = 500
    keep: Count = 3
    evaluate_every: Natural = 500
    preview_every: Natural = 500
    preview_clips: Count = 8
    changed_data: Literal["refuse", "accept"] = "refuse"
    profile_steps: tuple[int, ...] = ()
    max_hours: NonNegative = 0.0
    tracking: tuple[TrackerName, ...] = ("tensorboard",)
    guards: GuardSpec = field(default_factory=GuardSpec)


@dataclass(frozen=True)
class EvaluationConfig:
    """What `nbp.train` does when all stages are trained, and how large an evaluation is.

    protocol: name for `nbp.evaluate`; empty for none. features: folder that `nbp.convert i3d`
    wrote, or random-i3d, for protocols that compute a Frechet distance. clips: clips to generate
    and score. samples: clips written to `workdir/samples`. given_frames: latent frames taken from
    held-out clips instead of generated.
    every: steps of the generator between Frechet distances of `every_clips` clips during training,
    0 for none; under `protocol`, else the data's own, with `features`, else random ones.
    early_clips: clips drawn in the first 90 updates of a generator that starts from other weights,
    every 15, to see that they improve when its loss falls (docs/guard_rails.md); 0 for none.
    """

    protocol: str = ""
    features: str = ""
    clips: Count = 256
    samples: Natural = 16
    given_frames: Natural = 0
    every: Natural = 0
    every_clips: Annotated[int, Range(2.0)] = 64
    early_clips: Natural = 8


@dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh; 0 leaves the number to the program.

    data: groups of devices that each hold a whole copy; 0 takes what the others leave.
    fsdp: devices that share one copy of parameters, average and optimizer's state and split the
      batch; 0 takes as many as divide the width of the network.
    tensor: devices that share the work on a clip: heads, MLPs, vocabulary.
    """

    data: Natural = 0
    fsdp: Natural = 0
    tensor: Count = 1


@dataclass(frozen=True)
class MemoryConfig:
    """Memory of the generator's training step, for time or precision.

    parameters: float32; or bfloat16 with a float32 master in the optimizer, or with stochastic
      rounding. Norms and biases stay float32.
    remat: what the backward pass of a layer computes again instead of keeping: nothing, all but
      matmuls with parameters (dots), all but the layer's input (full), or this too from the
      host's memory (offload).
    loss_tokens: tokens of a device whose logits exist at one time.
    """

    parameters: Literal["float32", "master", "stochastic"] = "float32"
    remat: Literal["none", "dots", "full", "offload"] = "none"
    loss_tokens: Count = 1024


# What `data.root` is for each kind of data that has one.
ROOTS = {
    "folder": "folder of videos",
    "records": "dataset that nbp.prepare wrote",
    "tokens": "token cache that nbp.encode wrote",
}


@dataclass(frozen=True)
class Config:
    """A whole experiment; `config.json` of a workdir is this, resolved."""

    name: str
    data: DataConfig
    tokenizer: TokenizerSpec
    generator: GeneratorConfig
    train: TrainConfig
    seed: Seed = 0
    stages: tuple[StageName, ...] = ("tokenizer", "generator")
    sampling: SamplingConfig = field(default_factory=SamplingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    losses: Objective = field(default_factory=Objective)
    adversarial: AdversarySettings = field(default_factory=AdversarySettings)
    images: ImagesConfig = field(default_factory=ImagesConfig)
    mesh: MeshConfig = field(default_factory=MeshConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    @property
    def shapes_spec(self) -> MovingShapesSpec:
        frames, height, width = self.data.clip
        return MovingShapesSpec.of(
            self.data.moving_shapes, frames=frames, size=height, width=width * (width != height)
        )

    @property
    def labels_change(self) -> bool:
        """Whether labels of training clips may change within a clip."""
        return self.data.kind == "moving_shapes" and bool(
            self.data.moving_shapes.world.changed_parts
        )

    @property
    def grid(self) -> LatentGrid:
        return self.tokenizer.grid(*self.data.clip)

    def on_clips(self, clip: Box) -> "Config":
        """The same for clips of other (frames, height, width), and for no further ones.

        Their token cache lies in that of the main ones, in a folder named after them.
        """
        data, (frames, height, width) = self.data, clip
        below = data.kind == "tokens" and clip in data.grids
        changed: dict[str, Any] = {
            "width": width * (width != height),
            "root": f"{data.root}/{'x'.join(map(str, clip))}" if below else data.root,
            "grids": (),
            "grid_shares": (),
        }
        return replace(self, data=replace(data, frames=frames, size=height, **changed))

    @property
    def each_set(self) -> tuple["Config", ...]:
        """One configuration for each data set alone: this one's, and those of `data.mix`."""
        data = replace(self.data, mix=())
        further = [
            replace(data, kind=one.kind or data.kind, root=one.root, validation=0.0)
            for one in self.data.mix
        ]
        return tuple(replace(self, data=one) for one in (data, *further))

    @property
    def each_grid(self) -> tuple["Config", ...]:
        """This one, and one for each of `data.grids`."""
        return (self, *map(self.on_clips, self.data.grids))

    @property
    def block(self) -> Box:
        return resolve_block(self.generator.block, self.grid)

    @property
    def opening(self) -> Opening:
        return self.opening_of(self.block)

    def opening_of(self, block: Box) -> Opening:
        """How a clip in such blocks begins."""
        blocks = self.generator.opening_blocks
        if self.generator.opening != "hybrid":
            return Opening(self.generator.opening)
        if blocks == "frame":
            _, h, w = self.grid.shape
            _, bh, bw = block
            blocks = (h // bh) * (w // bw)
        return Opening("hybrid", blocks)

    @property
    def plan(self) -> SequencePlan:
        return self.plan_of(self.generator.block)

    @property
    def further_plans(self) -> tuple[SequencePlan, ...]:
        """Those of `generator.blocks`."""
        return tuple(map(self.plan_of, self.generator.blocks))

    def plan_of(self, block: str | Box) -> SequencePlan:
        """The plan of a block; ValueError where it does not fit."""
        lengths = {"none": 0, "label": 1, "text": prompts.LENGTH}
        prompt, box = lengths[self.generator.prompt], resolve_block(block, self.grid)
        return SequencePlan(self.grid, box, self.opening_of(box), prompt, self.generator.partition)

    def with_block(self, block: str | Box) -> "Config":
        """The same model, which draws in another of its blocks; ValueError where it knows none."""
        known = (self.generator.block, *self.generator.blocks)
        plans = [self.plan_of(each) for each in known]
        wanted = resolve_block(block, self.grid)
        for i, plan in enumerate(plans):
            if plan.block == wanted:
                others = known[:i] + known[i + 1 :]
                changed = replace(self.generator, block=known[i], blocks=others)
                return replace(self, generator=changed)
        names = ", ".join(plan.name for plan in plans)
        raise ValueError(f"block {block}: this model was trained with blocks {names}")

    @property
    def corruption(self) -> CorruptedContext | None:
        """What replaces codes that the generator reads in training, if anything.

        Never those of the latent frames that `evaluation.given_frames` gives when sampling.
        """
        settings, plan = self.generator.corruption, self.plan
        if not settings.share:
            return None
        return CorruptedContext(
            settings,
            plan,
            self.tokenizer.make_quantizer().codes,
            levels=self.tokenizer.digits,
            given=plan.tokens_of_frames(self.evaluation.given_frames),
        )

    @property
    def head(self) -> HeadSpec | None:
        """The head of digits; None predicts whole codes. ValueError where codes have no digits."""
        generator = self.generator
        if generator.head == "vocabulary":
            return None
        if not (levels := self.tokenizer.digits):
            raise ValueError(
                f"{generator.head} predicts digits of codes, which those of "
                f"{self.tokenizer.quantizer} do not have: use tokenizer.quantizer=fsq or lfq, or "
                "generator.head=vocabulary"
            )
        return HeadSpec(levels, generator.joint_head if generator.head == "joint" else None)

    def vocabulary(self, classes: int) -> Vocabulary:
        """The ids of a model trained with `classes` labels."""
        sizes = {"none": 0, "label": classes, "text": prompts.VOCABULARY}
        prompt = sizes[self.generator.prompt]
        special = self.generator.special_ids or max(
            plan.special_count
            for config in self.each_grid
            for plan in (config.plan, *config.further_plans)
        )
        return Vocabulary(self.tokenizer.make_quantizer().codes, prompt, special)
