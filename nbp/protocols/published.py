# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Protocols of published repositories. Where a value comes from stands beside it.

`unknown` of a record names what its repository does not tell, with the choice made here; `differs`
what is done otherwise on purpose. A wrong value is corrected with a higher `version`.
"""

from dataclasses import replace

from nbp.protocols.protocol import (
    ClipRule,
    FeatureRule,
    GenerationRule,
    InceptionRule,
    PixelRule,
    Protocol,
    Storage,
)

# UCF101, split 1: train and test list. Kinetics-600: the validation list of the NBP release.
UCF_TRAIN, UCF_TEST, K600_VALIDATION = 9_537, 3_783, 29_739

# Of all records here. 2: clips, labels and moments as the repositories draw and compute them
# (CHANGELOG.md); numbers of version 1 are of other clips.
VERSION = 2

_FLOAT64 = (
    "moments and root in float64: in the float32 of VideoGPT's code the distance is lower, by "
    "0.020 for 256 clips, 0.041 for 2,048, 0.063 for 6,000 (measured on random features)"
)
_FIDELITY = "PSNR and SSIM of clips rounded to bytes, there of floats (0.004 dB at 28 dB)"
_CAUSAL_READ = "17 frames are read, for causal tokenizers, and the first 16 scored"

# Inception scores of repositories without a protocol here, for `inception.score_classes`.
# pfnet-research/tgan2: scripts/compute_inception_score.py.
TGAN2_INCEPTION = InceptionRule((1,), clips=2_048, loops=10, shuffle=None, preparation="squash")
# universome/stylegan-v: the metric isv2048_ucf.
STYLEGANV_INCEPTION = InceptionRule((10,), clips=2_048, shuffle=42, preparation="squash")

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
# OmniTokenizer, utils.py:222-247: imageio.mimsave of a grid of one clip, which has room for a line
# on all sides, but begins in its corner: both are below and to the right. imageio gives its FFmpeg
# plugin no quality, so the encoder's crf stands; read back, the file has 272 x 272 pixels.
_OMNI_FILE = Storage(size=256, black=2, macro_block=16, crf=23, fps=6.0)
_OMNI_THREADS = (
    "the encoder's threads, which change its files a little: as many as the machine had processors "
    "there, one here"
)

_ONE_SIDE = (
    "frames of which one side stays and the other is scaled, as 340x256 px to 256: decord's FFmpeg "
    "of 2020 makes other pixels there than today's (by 0.4 levels on a real clip)"
)

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
    VERSION,
    source="RenShuhuai-Andy/NBP: tokenizer_eval.py, nbp/data.py, nbp/fvd/fvd.py",
    unknown=("UCF101 has no script: the parser's defaults of the Kinetics-600 script stand",),
    differs=(_FLOAT64, _FIDELITY, "LPIPS of all frames, not of frame 5"),
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
    differs=(_FLOAT64, _ONE_SIDE),
)

# LARP: eval/eval_larp_tokenizer.py, eval/rfvd_evaluator.py, datasets/video_dataset.py: the train
# list, a random window of 16 frames at the file's rate, short side and centre crop, one pass. A
# causal tokenizer of time stride 4 takes 17 frames: that many are read and the first 16 scored.
LARP_RFVD = Protocol(
    "larp-rfvd",
    VERSION,
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
            counted=16,
            pixels=_LARP,
        ),
    ),
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, ddof=0),
    source="hywang66/LARP: eval/eval_larp_tokenizer.py, eval/rfvd_evaluator.py, utils/fvd/fvd.py",
    unknown=("the random windows are drawn anew in each run: ours from the protocol's seed",),
    differs=(_CAUSAL_READ, _FIDELITY),
)

# SEED-Voken (Open-MAGVIT2): evaluation_video.py, Open_MAGVIT2/data/ucf101.py: the train folder,
# filled up to 10,000 by random.sample, centre windows of 17 frames, short side and random crop.
SEED_RFVD = Protocol(
    "seed-rfvd",
    VERSION,
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
    differs=(_FLOAT64,),
)

_ONE_SEED = "generated clips are drawn from the seed 42, there from 42 + rank on 8 devices"
_CAUSAL = "17 frames are read and generated, for causal tokenizers, and the first 16 scored"

# NBP: transformer_eval.py, scripts/lm_eval/eval_ucf.sh. DistributedSampler deals the shuffled train
# list to 8 processes, each of which repeats its own first clips; the text of each clip. The I3D of
# StyleGAN-V on float clips, resize and rescale of the file switched off.
NBP_UCF = Protocol(
    "nbp-ucf",
    VERSION,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            order="ranks",
            ranks=8,
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
    seed=42,
    source="RenShuhuai-Andy/NBP: transformer_eval.py:165-260,462, evaluation/metrics.py, "
    "scripts/lm_eval/eval_ucf.sh",
    differs=(_ONE_SEED,),
)

# NBP: transformer_eval.py:263-340, scripts/lm_eval/eval_k600.sh. The parser's 25 fps and random
# start, drawn by the 8 loader workers of each process with Python's generator, whose seeds follow
# from 42 + rank; a process keeps its batches when it starts again, so that a video which it repeats
# is the same clip. Both sets go through 64 px.
NBP_K600 = Protocol(
    "nbp-k600",
    VERSION,
    clips=(
        ClipRule(
            "k600",
            split="validation",
            videos=K600_VALIDATION,
            clips=50_000,
            order="ranks",
            ranks=8,
            duplicates="cycle",
            frames=17,
            size=128,
            fps=25.0,
            spatial="squash",
            window="loader",
            short="black",
            pixels=_DECORD,
        ),
    ),
    reconstruction=False,
    fidelity_frames=16,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, sizes=(64,)),
    generation=GenerationRule(50_000, given_frames=5, condition="reconstructed", values="float"),
    seed=42,
    source="RenShuhuai-Andy/NBP: transformer_eval.py:263-340, evaluation/metrics.py, "
    "scripts/lm_eval/eval_k600.sh",
    differs=(
        _ONE_SEED,
        "PSNR and SSIM of the frames after the given ones, not of all 16",
    ),
)

# LARP: sample.py, datasets/video_dataset.py, utils/fvd/fvd.py: all windows of 16 frames at a
# distance of 16, of videos sorted by path, of which random.Random(42).sample draws the real ones;
# labels are those of the real clips; covariances are divided by n.
LARP_UCF = Protocol(
    "larp-ucf",
    VERSION,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            order="sample",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            window="all",
            step=16,
            counted=16,
            pixels=_LARP,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("styleganv-ts", "styleganv", frames=16, ddof=0),
    generation=GenerationRule(10_000, labels="paired", values="float"),
    seed=42,
    source="hywang66/LARP: sample.py:82-215, datasets/video_dataset.py, utils/fvd/fvd.py",
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
    features=FeatureRule(
        "styleganv-ts", "styleganv", frames=16, sizes=(64,), antialias=True, ddof=0
    ),
    generation=GenerationRule(50_000, given_frames=5, condition="regenerated", values="float"),
    source="hywang66/LARP: sample.py:234-330, datasets/video_dataset.py, utils/fvd/fvd.py",
)

# MAGVIT: configs/maskgvt_ucf101_config.py, train_lib/eval_utils.py: the 40,000 examples of an
# endless shuffled train stream are four repeats of 10,000, so that each has other real clips; clips
# are generated with the labels of the same batch (trainers/maskgvt_trainer.py:359). Frames are
# scaled straight to 224 x 224. train_lib/frechet_distance.py, inception_score.py: deviations over
# repeats are divided by their number, an inception score is of one part.
MAGVIT_UCF = Protocol(
    "magvit-ucf",
    VERSION,
    clips=(
        ClipRule(
            "ucf101",
            split="train",
            videos=UCF_TRAIN,
            clips=10_000,
            order="epochs",
            frames=17,
            size=128,
            fps=0.0,
            spatial="crop",
            crop="random",
            window="random",
            counted=16,
            flip=0.5,
            pixels=_DMVR,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("any", "tf1", frames=16, epsilon=1e-3),
    generation=GenerationRule(10_000, labels="paired", values="float"),
    inception=InceptionRule((1,), shuffle=None, preparation="squash"),
    repeats=4,
    repeats_ddof=0,
    source="google-research/magvit: configs/maskgvt_ucf101_config.py, train_lib/eval_utils.py, "
    "trainers/maskgvt_trainer.py, train_lib/frechet_distance.py, train_lib/inception_score.py",
    unknown=(
        "the loader of ucf101 is not public: random window, random crop and a flip of probability "
        "0.5 are inferred from the names of its settings, which are those of scenic's "
        "projects/vivit/data/video_tfrecord_dataset.py, whose train subset DMVR reads so",
        "the shuffling of its stream, by a buffer of unknown size: ours permutes each epoch",
        "its I3D is a Flax port of the same Kinetics-400 network, which nbp.convert does not read: "
        "either file may be given, with its epsilon of 1e-3, and the report says which",
    ),
    differs=(_CAUSAL,),
)

# OmniTokenizer: evaluation/fvd_external.py:12-90, evaluation/README.md, scripts/lm_gen/ucf_gen.sh:
# every avi file of UCF101, without a seed; clips of 256 px are written as mp4 and read at 128.
OMNI_UCF = Protocol(
    "omni-ucf",
    VERSION,
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
        _OMNI_THREADS,
    ),
    differs=(_FLOAT64, "of the distances of 10 to 17 frames, which it prints, the one of 17"),
)
# transformer_eval.py:201-216: DistributedSampler deals the shuffled train list to 8 processes, each
# of which takes the centre, at the file's rate, of its first 256; short videos end in black. The
# real clips are these.
OMNI_K600 = replace(
    OMNI_UCF,
    name="omni-k600",
    clips=(
        replace(
            OMNI_UCF.clips[0],
            dataset="k600",
            split="train",
            videos=None,
            order="ranks",
            ranks=8,
            size=64,
            short="black",
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
    source="FoundationVision/OmniTokenizer: transformer_eval.py:95-140,201-216, "
    "scripts/lm_gen/k600_fp.sh, evaluation/README.md",
    unknown=(
        _OMNI_THREADS,
        "which files the real clips are: those that transformer_eval.py writes beside its own, at "
        "256 px, as scripts/fvd.sh of NBP names that folder and the loader takes mp4 of one folder",
        "its k600_train.txt is in no repository: any number of train videos is taken as complete",
    ),
    differs=(*OMNI_UCF.differs, _ONE_SIDE),
)

# TATS: scripts/sample_vqgan_transformer_short_videos.py, tats/data.py, tats/fvd/fvd.py: the train
# loader shuffles all windows of 16 frames at a distance of 1, so that long videos weigh more; as
# many generated clips of balanced classes.
_TATS_SPLIT = "which videos of UCF101 its train folder holds: the train list of split 1"
_TATS_DRAW = "the loader's shuffle is not seeded: ours is, with the protocol's seed"
TATS_UCF = Protocol(
    "tats-ucf",
    VERSION,
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
            window="all",
            counted=16,
            pixels=_TATS,
        ),
    ),
    reconstruction=False,
    features=FeatureRule("videogpt-pt", "videogpt", frames=16),
    generation=GenerationRule(2_048, labels="in turn", values="floored"),
    source="songweige/TATS: scripts/sample_vqgan_transformer_short_videos.py, tats/data.py, "
    "tats/fvd/fvd.py",
    unknown=(_TATS_SPLIT, _TATS_DRAW, "which 2,048 of 32 clips per class: all classes in turn"),
    differs=(_CAUSAL, _FLOAT64),
)
TATS_UCF_UNCOND = replace(
    TATS_UCF,
    name="tats-ucf-uncond",
    generation=GenerationRule(2_048, labels="none", values="floored"),
    unknown=(_TATS_SPLIT, _TATS_DRAW),
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
