# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Protocols of published repositories. Where a value comes from stands beside it.

`unknown` of a record names what its repository does not tell, with the choice made here; `differs`
what is done otherwise on purpose. A wrong value is corrected with a higher `version`.
"""

from dataclasses import replace

from nbp.evaluation.rules import ClipRule, FeatureRule, GenerationRule, PixelRule, Protocol, Storage

# UCF101, split 1: train and test list. Kinetics-600: the validation list of the NBP release.
UCF_TRAIN, UCF_TEST, K600_VALIDATION = 9_537, 3_783, 29_739

# How frames become small, and which values they have then -----------------------------------------

# decord's VideoReader(width=, height=): FFmpeg's scale filter (nbp/video_utils.py:256 of NBP, which
# OmniTokenizer/data.py has as well). Its default was bilinear in the FFmpeg of decord's wheels.
_DECORD = PixelRule("swscale-bilinear")
# OmniTokenizer's loader subtracts 0.5, its scripts add it and multiply (vqgan_eval.py:147).
_OMNI = replace(_DECORD, passed="[-0.5, 0.5]")
# LARP, datasets/video_dataset.py:45-48: torchvision's Resize and CenterCrop of floats.
_LARP = PixelRule("bilinear-antialiased", long_side="floor", margin="round", values="float")
# TATS, tats/data.py:119-136: F.interpolate of floats; sample script, lines 99 and 113.
_TATS = PixelRule("bilinear", long_side="ceil", values="float", passed="[-0.5, 0.5]")
# SEED-Voken, Open_MAGVIT2/data/functional.py:39,73, and evaluation_video.py for the bytes.
_SEED = PixelRule("cv2-bilinear", long_side="floor", passed="[-1, 1]")
# MAGVIT, if its loader is DMVR's: dmvr/processors.py:374-409 (tf.image.resize, cast to uint8).
_DMVR = PixelRule("bilinear", long_side="floor", values="floored")
# OmniTokenizer, utils.py:222-247: imageio.mimsave of a grid of one clip. imageio gives its FFmpeg
# plugin no quality, so the encoder's crf stands; read back, the file has 272 x 272 pixels.
_OMNI_FILE = Storage(size=256, border=1, macro_block=16, crf=23, fps=6.0)

# Reconstruction ----------------------------------------------------------------------------------

# NBP: tokenizer_eval.py and nbp/data.py (parser defaults: fps 16), with the resolution and length
# of scripts/recons/eval_tokenizer.sh. The script is for Kinetics-600; UCF101's has no published
# one, so the same defaults stand. Frames are squashed by the decoder, and short clips end in black.
_NBP_UCF_CLIPS = ClipRule(
    "ucf101",
    split="test",
    videos=UCF_TEST,
    frames=17,
    size=128,
    fps=16.0,
    spatial="squash",
    short="black",
    pixels=_DECORD,
)
NBP_RFVD = Protocol(
    "nbp-rfvd",
    1,
    source="RenShuhuai-Andy/NBP: tokenizer_eval.py, nbp/data.py, nbp/fvd/fvd.py",
    unknown=("UCF101 has no script: the parser's defaults of the Kinetics-600 script stand",),
    differs=("moments in float64 instead of float32", "LPIPS of all frames, not of frame 5"),
    clips=(
        _NBP_UCF_CLIPS,
        replace(_NBP_UCF_CLIPS, dataset="k600", split="validation", videos=K600_VALIDATION),
    ),
    fidelity_frames=16,  # tokenizer_eval.py: all but the last frame
    features=FeatureRule("videogpt-pt", "videogpt", frames=17),  # nbp/fvd/fvd.py
)

# OmniTokenizer: vqgan_eval.py and OmniTokenizer/data.py (fps 16), at the 256 pixels of
# scripts/recons/eval_video.sh. The loader is the one that NBP took over.
OMNI_RFVD = replace(
    NBP_RFVD,
    name="omni-rfvd",
    clips=tuple(replace(rule, size=256, pixels=_OMNI) for rule in NBP_RFVD.clips),
    fidelity_frames=None,
    source="FoundationVision/OmniTokenizer: vqgan_eval.py, OmniTokenizer/data.py",
    unknown=(),
    differs=("moments in float64 instead of float32",),
)

# LARP: eval/eval_larp_tokenizer.py, eval/rfvd_evaluator.py, datasets/video_dataset.py: the train
# list, a random window of 16 frames at the file's rate, short side and centre crop, one pass. A
# causal tokenizer of time stride 4 takes 17 frames: that many are read and the first 16 scored.
LARP_RFVD = Protocol(
    "larp-rfvd",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            window="random",
            pixels=_LARP,
        ),
    ),
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16),
    source="hywang66/LARP: eval/eval_larp_tokenizer.py, eval/rfvd_evaluator.py",
    differs=("17 frames are read, for causal tokenizers, and the first 16 scored",),
)

# SEED-Voken (Open-MAGVIT2): evaluation_video.py, Open_MAGVIT2/data/ucf101.py: the train folder,
# filled up to 10,000 by random.sample, centre windows of 17 frames, short side and random crop.
SEED_RFVD = Protocol(
    "seed-rfvd",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            duplicates="random",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            crop="random",
            pixels=_SEED,
        ),
    ),
    features=FeatureRule("videogpt-pt", "videogpt", frames=17),
    source="TencentARC/SEED-Voken: evaluation_video.py, Open_MAGVIT2/data/ucf101.py",
    unknown=("random.sample is not seeded: ours is, with the protocol's seed",),
    differs=("moments in float64 instead of float32",),
)

# Generation --------------------------------------------------------------------------------------

_CAUSAL = "17 frames are read and generated, for causal tokenizers, and the first 16 scored"

# NBP: transformer_eval.py. The train list from its start again up to 10,000; the text of each
# listed clip. StyleGAN-V's I3D on float clips, resize and rescale of the file switched off.
NBP_UCF = Protocol(
    "nbp-ucf",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            duplicates="cycle",
            frames=17,
            size=128,
            fps=8.0,
            spatial="squash",
            short="black",
            pixels=_DECORD,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16),
    generation=GenerationRule(10_000, labels="paired", values="float"),
    seed=1234,
    source="RenShuhuai-Andy/NBP: transformer_eval.py:165-260,462, evaluation/metrics.py",
)

# NBP: transformer_eval.py:263-340. The parser's 25 fps and random start; the loader keeps its
# batches when it starts again, so a repeated video is the same clip. Both sets go through 64 px.
NBP_K600 = Protocol(
    "nbp-k600",
    1,
    clips=(
        ClipRule(
            "k600",
            split="validation",
            videos=K600_VALIDATION,
            clips=50_000,
            duplicates="cycle",
            frames=17,
            size=128,
            fps=25.0,
            spatial="squash",
            window="random",
            short="black",
            pixels=_DECORD,
        ),
    ),
    reconstruction=False,
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, sizes=(64,)),
    generation=GenerationRule(50_000, given_frames=5, condition="reconstructed", values="float"),
    seed=1234,
    source="RenShuhuai-Andy/NBP: transformer_eval.py:263-340, evaluation/metrics.py",
    differs=("PSNR and SSIM of the frames after the given ones, not of all 16",),
)

# LARP: sample.py, utils/fvd/fvd.py: all windows of 16 frames at a distance of 16, of which seed 42
# draws the real ones; labels are those of the real clips.
LARP_UCF = Protocol(
    "larp-ucf",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            order="shuffled",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            window="all",
            pixels=_LARP,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, antialias=True),
    generation=GenerationRule(10_000, labels="paired", values="float"),
    seed=42,
    source="hywang66/LARP: sample.py:82-215, utils/fvd/fvd.py",
    unknown=("the draw of seed 42 is their generator's: ours draws other clips of the same set",),
    differs=(_CAUSAL,),
)
LARP_K600 = replace(
    LARP_UCF,
    name="larp-k600",
    clips=(
        replace(
            LARP_UCF.clips[0],
            dataset="k600",
            split="validation",
            videos=K600_VALIDATION,
            clips=50_000,
        ),
    ),
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, sizes=(64,), antialias=True),
    generation=GenerationRule(50_000, given_frames=5, condition="regenerated", values="float"),
    source="hywang66/LARP: sample.py:234-330, utils/fvd/fvd.py",
)

# MAGVIT: configs/maskgvt_ucf101_config.py:119-120, train_lib/eval_utils.py: 10,000 samples, four
# times; the real clips are those of the train split; frames are scaled straight to 224 x 224.
MAGVIT_UCF = Protocol(
    "magvit-ucf",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            duplicates="cycle",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            pixels=_DMVR,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("any", "tf1", frames=16),
    generation=GenerationRule(10_000, labels="in turn", values="float"),
    repeats=4,
    source="google-research/magvit: configs/maskgvt_ucf101_config.py, train_lib/eval_utils.py",
    unknown=(
        "the offset of a video's one clip is set in another repository: the centre",
        "the number of real clips: as many as generated ones, from the list's start again",
        "the cut to 128 px: short side and centre crop, with the operations of DMVR, whose loaders "
        "have the keys of its configuration",
        "the distribution of the classes: all in turn",
        "its I3D is a Flax port of the same Kinetics-400 network, which nbp.convert does not read: "
        "either file may be given, and the report says which",
    ),
    differs=(_CAUSAL,),
)

# OmniTokenizer: evaluation/fvd_external.py:12-90, evaluation/README.md, scripts/lm_gen/ucf_gen.sh:
# every avi file of UCF101, without a seed; clips of 256 px are written as mp4 and read at 128.
OMNI_UCF = Protocol(
    "omni-ucf",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train+test",
            videos=UCF_TRAIN + UCF_TEST,
            clips=2_048,
            order="shuffled",
            frames=17,
            size=128,
            fps=0.0,
            spatial="squash",
            pixels=_DECORD,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("videogpt-pt", "videogpt", frames=17),
    generation=GenerationRule(
        2_048,
        size=256,
        labels="in turn",
        storage=_OMNI_FILE,
        values="floored",
        resize="swscale-bilinear",
    ),
    source="FoundationVision/OmniTokenizer: evaluation/fvd_external.py, scripts/lm_gen/ucf_gen.sh",
    unknown=(
        "random.shuffle is not seeded: ours is, with the protocol's seed",
        "which 2,048 of 2,222 generated clips: the first, labels in turn",
    ),
    differs=("of the distances of 10 to 17 frames, which it prints, the one of 17",),
)
# The real clips are those of the train list, which nobody has published.
OMNI_K600 = replace(
    OMNI_UCF,
    name="omni-k600",
    clips=(
        replace(
            OMNI_UCF.clips[0],
            dataset="k600",
            split="train",
            videos=None,
            size=64,
            pixels=_OMNI,
            storage=_OMNI_FILE,
        ),
    ),
    generation=GenerationRule(
        2_048,
        size=256,
        given_frames=5,
        condition="reconstructed",
        storage=_OMNI_FILE,
        values="floored",
        resize="swscale-bilinear",
    ),
    source="FoundationVision/OmniTokenizer: scripts/lm_gen/k600_fp.sh, evaluation/README.md",
    unknown=(
        *OMNI_UCF.unknown[:1],
        "which files the real clips are: those that transformer_eval.py writes beside its own, at "
        "256 px, as scripts/fvd.sh of NBP names that folder and the loader takes mp4 of one folder",
        "k600_train.txt is in no repository: any number of train videos is taken as complete",
        "the rate of the given frames: each file's own, as the real clips are read",
    ),
)

# TATS: scripts/sample_vqgan_transformer_short_videos.py, tats/fvd/fvd.py: the train loader,
# shuffled, random clips; as many generated ones of balanced classes.
TATS_UCF = Protocol(
    "tats-ucf",
    1,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=2_048,
            order="shuffled",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            window="random",
            pixels=_TATS,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("videogpt-pt", "videogpt", frames=16),
    generation=GenerationRule(2_048, labels="in turn", values="floored"),
    source="songweige/TATS: scripts/sample_vqgan_transformer_short_videos.py, tats/fvd/fvd.py",
    unknown=("how classes are balanced where 101 does not divide 2,048: all in turn",),
    differs=(_CAUSAL, "one clip of a video at most, where its loader may draw several"),
)
TATS_UCF_UNCOND = replace(
    TATS_UCF,
    name="tats-ucf-uncond",
    generation=GenerationRule(2_048, labels="none", values="floored"),
    unknown=(),
)

PUBLISHED = (
    NBP_RFVD,
    OMNI_RFVD,
    LARP_RFVD,
    SEED_RFVD,
    NBP_UCF,
    NBP_K600,
    LARP_UCF,
    LARP_K600,
    MAGVIT_UCF,
    OMNI_UCF,
    OMNI_K600,
    TATS_UCF,
    TATS_UCF_UNCOND,
)
