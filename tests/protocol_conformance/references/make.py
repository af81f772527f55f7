# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false
"""Writes the references from the original libraries and repositories; run by hand, never by a test.

    python make.py torch CHECKOUTS       torch, torchvision, opencv-python, decord, imageio[ffmpeg],
                                         pytorch_msssim, scikit-learn, einops, easydict
    python make.py tensorflow CHECKOUTS  tensorflow, tensorflow-gan, and dmvr's checkout

CHECKOUTS holds NBP, LARP, OmniTokenizer, TATS, SEED-Voken and dmvr. Their functions are called, and
what they return is stored; modules that the functions do not need are replaced by empty ones.
"""

import importlib
import importlib.util
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[2]))


def load(path: Path, *absent: str) -> Any:
    """The module of a file, with stand-ins for what it imports but the called functions do not use.

    A function of a larger script comes as `cut_function`.
    """
    for name in absent:
        try:
            importlib.import_module(name)
        except ImportError:
            sys.modules[name] = mock.MagicMock()
    spec = importlib.util.spec_from_file_location(path.stem + "_original", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def cut_function(path: Path, name: str, **names: Any) -> Callable[..., Any]:
    """A function of a file whose other imports are not installed."""
    lines = path.read_text().splitlines()
    first = next(n for n, line in enumerate(lines) if line.startswith(f"def {name}("))
    after = (n for n in range(first + 1, len(lines)) if lines[n][:1] not in ("", " ", ")"))
    scope = dict(names)
    exec("\n".join(lines[first : next(after, len(lines))]), scope)
    return scope[name]


def noise(height: int, width: int, *, seed: int = 0) -> np.ndarray:
    """The bytes [height width 3] that kernels are tried on."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


# Heights and widths that become others: smaller, larger, odd ones.
KERNELS = ((15, 20, 8, 11), (9, 16, 14, 25), (5, 5, 16, 16), (20, 12, 12, 12))


# Frames of the videos that a loader draws windows of 17 from, and the ranks that are tried.
LENGTHS = [int(n) for n in np.random.default_rng(4).integers(5, 260, 97)]
LOADER_RANKS = (0, 5)


def load_starts(rank: int) -> list[int]:
    """First frames as transformer_eval.py:386-389,448-462 of NBP has them drawn by its loader."""
    import random

    import torch

    class Videos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(LENGTHS)

        def __getitem__(self, index: int) -> int:
            start = random.randint(0, LENGTHS[index] - min(17, LENGTHS[index]))
            random.randint(0, 0)  # nbp/video_utils.py:542-543, of frames as large as the crop
            random.randint(0, 0)
            return start

    torch.manual_seed(42 + rank)
    videos = Videos()
    sampler = torch.utils.data.distributed.DistributedSampler(videos, num_replicas=8, rank=rank)
    loader = torch.utils.data.DataLoader(
        videos, batch_size=1, num_workers=8, sampler=sampler, shuffle=False
    )
    return [int(batch) for batch in loader]


def write_draws() -> None:
    import torch

    found = {}
    for count in (997, 64):
        for rank in range(8):
            sampler = torch.utils.data.distributed.DistributedSampler(
                range(count), num_replicas=8, rank=rank
            )
            found[f"rank_{count}_{rank}"] = np.array(list(sampler), np.int16)
    for rank in LOADER_RANKS:
        found[f"loader_{rank}"] = np.array(load_starts(rank), np.int16)
    generator = torch.Generator().manual_seed(0)
    found["permutation_9537"] = torch.randperm(9_537, generator=generator).numpy().astype(np.int16)
    np.savez_compressed(HERE / "draws.npz", **found)


def write_kernels() -> None:
    import cv2
    import torch
    import torchvision
    from torch.nn import functional

    found = {}
    for number, (height, width, *target) in enumerate(KERNELS):
        image = noise(height, width)
        tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
        for name, antialias in (("half_pixel", False), ("triangle", True)):
            made = functional.interpolate(
                tensor, target, mode="bilinear", align_corners=False, antialias=antialias
            )
            found[f"{name}_{number}"] = made[0].permute(1, 2, 0).numpy()
        found[f"opencv_{number}"] = cv2.resize(
            image, tuple(target[::-1]), interpolation=cv2.INTER_LINEAR
        )
    for number, (height, width) in enumerate(((15, 20), (18, 32), (32, 18), (18, 21))):
        tensor = torch.from_numpy(noise(height, width)).permute(2, 0, 1).float() / 255
        chain = torchvision.transforms.Compose(
            [torchvision.transforms.Resize(8, antialias=True), torchvision.transforms.CenterCrop(8)]
        )
        found[f"larp_{number}"] = chain(tensor).permute(1, 2, 0).numpy()
    np.savez_compressed(HERE / "kernels.npz", **found)


def write_preparations(checkouts: Path) -> None:
    import math

    import einops
    import torch
    from torch.nn import functional

    from tests.protocol_conformance import sets

    names = {"torch": torch, "F": functional, "math": math, "np": np, "einops": einops}
    video = sets.draw_pixels(1, 1, 12)
    wide = np.concatenate([video, video[:, :, :, :7]], axis=3)
    found = {}
    place = checkouts / "NBP/evaluation/common_metrics_on_video_quality/fvd/styleganv/fvd.py"
    single = cut_function(place, "preprocess_single", **names)
    for name, clip in (("square", video), ("wide", wide)):
        tensor = torch.from_numpy(clip[0]).permute(3, 0, 1, 2)
        for size in (8, 21):
            made = single(tensor, resolution=size)
            found[f"styleganv_{name}_{size}"] = made.permute(1, 2, 3, 0).numpy()
    bytes_ = (wide * 255).astype(np.uint8)
    place = checkouts / "NBP/nbp/fvd/fvd.py"
    made = cut_function(place, "preprocess", **names)(bytes_, (16, 16))
    found["videogpt"] = made[0].permute(1, 2, 3, 0).numpy()
    place = (
        checkouts / "OmniTokenizer/evaluation/common_metrics_on_video_quality/fvd/videogpt/fvd.py"
    )
    names["preprocess_single"] = cut_function(place, "preprocess_single", **names)
    made = cut_function(place, "preprocess", **names)(
        torch.from_numpy(wide).permute(0, 4, 1, 2, 3), 16
    )
    found["videogpt_crop"] = made[0].permute(1, 2, 3, 0).numpy()
    made = cut_function(checkouts / "TATS/tats/data.py", "preprocess", **names)(
        torch.from_numpy(bytes_[0]), 8
    )["video"]
    found["tats"] = ((made + 0.5) * 255).byte().permute(1, 2, 3, 0).numpy()
    np.savez_compressed(HERE / "preparations.npz", **found)


def write_bytes(checkouts: Path) -> None:
    import torch

    every = torch.arange(256, dtype=torch.uint8)
    omni = load(
        checkouts / "OmniTokenizer/OmniTokenizer/video_utils.py",
        "decord",
        "imageio",
        "einops",
        "av",
        "turbojpeg",
        "cv2",
        "skvideo",
        "skvideo.io",
    ).VideoNorm()
    image = every.float().view(1, 1, 1, 256).repeat(1, 3, 1, 1)
    real = omni(image.clone()) + 0.5
    functional = load(checkouts / "SEED-Voken/src/Open_MAGVIT2/data/functional.py")
    clip = every.float().view(1, 1, 1, 256).repeat(3, 1, 1, 1) / 255
    half = [0.5, 0.5, 0.5]
    seed = (functional.normalize(clip, half, half) + 1) / 2
    np.savez_compressed(
        HERE / "bytes.npz",
        omni=(real * 255).byte()[0, 0, 0].numpy(),
        seed_voken=(seed * 255.0).byte()[0, 0, 0].numpy(),
        nbp=(every.float() / 255 * 255).byte().numpy(),
    )


def write_files(checkouts: Path) -> None:
    import math

    import decord
    import imageio
    import torch

    from tests.protocol_conformance import sets

    for name, codec, shape in (("ucf.avi", "mpeg4", (72, 96)), ("k600.mp4", "libx264", (72, 128))):
        sets.write_file(HERE / name, sets.draw_frames(*shape, 3, seed=5), codec=codec)
    found = {}
    for name in ("ucf.avi", "k600.mp4"):
        for size in (32, 64):
            reader = decord.VideoReader(str(HERE / name), width=size, height=size)
            found[f"{name}_{size}"] = reader.get_batch([2]).asnumpy()
        found[f"{name}_native"] = decord.VideoReader(str(HERE / name)).get_batch([2]).asnumpy()
    save = cut_function(
        checkouts / "OmniTokenizer/OmniTokenizer/utils.py",
        "save_video_grid",
        np=np,
        math=math,
        imageio=imageio,
    )
    clip = torch.from_numpy(sets.draw_pixels(1, 17, 32)).permute(0, 4, 1, 2, 3)
    save(clip, str(HERE / "omni.mp4"), 1)
    reader = decord.VideoReader(str(HERE / "omni.mp4"), width=32, height=32)
    found["omni_read"] = reader.get_batch([0, 8, 16]).asnumpy()
    np.savez_compressed(HERE / "files.npz", **found)


def write_scores(checkouts: Path) -> None:
    import torch
    from pytorch_msssim import ssim

    from tests.protocol_conformance import sets

    absent = ("nbp.fvd", "nbp.fvd.pytorch_i3d", "torchvision.datasets.video_utils", "tqdm")
    videogpt = load(checkouts / "NBP/nbp/fvd/fvd.py", *absent)
    styleganv = load(
        checkouts / "NBP/evaluation/common_metrics_on_video_quality/fvd/styleganv/fvd.py"
    )
    larp = load(checkouts / "LARP/utils/fvd/fvd.py", *absent)
    found: dict[str, Any] = {}
    for count, dimensions in ((256, 40), (300, 120)):
        pair = [
            sets.draw_features(count, seed=seed, dimensions=dimensions, shift=seed / 10)
            for seed in (1, 2)
        ]
        key = f"{count}_{dimensions}"
        tensors = [torch.from_numpy(x) for x in pair]
        found[f"videogpt_{key}"] = videogpt.frechet_distance(*tensors).item()
        found[f"kvd_{key}"] = videogpt.polynomial_mmd(*(x.astype(np.float64) for x in pair))
        stats = [larp.FeatureStats(capture_mean_cov=True) for _ in pair]
        for stat, tensor in zip(stats, tensors, strict=True):
            for part in tensor.split(50):
                stat.append_torch(part)
        found[f"larp_{key}"] = larp.FVDCalculator.calculate_fvd(None, *stats).item()
        found[f"larp_covariance_{key}"] = stats[0].get_mean_cov()[1][:4, :4]
        with mock.patch.object(styleganv, "sqrtm", sqrtm_of_old):
            found[f"styleganv_{key}"] = styleganv.frechet_distance(
                *(x.astype(np.float64) for x in pair)
            )
    clips = sets.draw_pixels(1, 3, 32, seed=3), sets.draw_pixels(1, 3, 32, seed=4)
    x, y = (torch.from_numpy(clip[0]).permute(0, 3, 1, 2) * 255 for clip in clips)
    found["ssim"] = ssim(x, y, data_range=255, size_average=False).mean().item()
    np.savez_compressed(HERE / "scores.npz", **found)


def sqrtm_of_old(matrix: np.ndarray, disp: bool) -> tuple[Any, None]:
    """scipy's sqrtm with the argument `disp`, which newer versions lack."""
    from scipy import linalg

    return linalg.sqrtm(matrix), None


def write_tensorflow(checkouts: Path) -> None:
    import tensorflow as tf

    # tfgan is older than TensorFlow's removal of these, which the called functions do not use.
    tf.estimator = types.SimpleNamespace(SessionRunHook=object, Estimator=object)
    sys.modules["tensorflow_gan.python.estimator"] = types.ModuleType("estimator")
    import tensorflow_gan as tfgan

    from tests.protocol_conformance import sets

    sys.path.insert(0, str(checkouts / "dmvr"))
    sys.modules["dmvr.tokenizers"] = mock.MagicMock()
    from dmvr import processors

    found: dict[str, Any] = {}
    for number, (height, width, *target) in enumerate(KERNELS):
        image = noise(height, width)
        made = tf.compat.v1.image.resize_bilinear(image[None], target, align_corners=False)
        found[f"corner_pixel_{number}"] = made.numpy()[0]
        made = processors.resize_smallest(tf.constant(image[None]), 8)
        found[f"dmvr_{number}"] = made.numpy()[0]
    for frames in (5, 16, 17, 40):
        drawn = {
            tuple(processors.sample_sequence(tf.range(frames), 16, True).numpy().tolist())
            for _ in range(60 * max(1, frames - 15))
        }
        found[f"windows_{frames}"] = np.array(sorted(drawn), np.int16)
    pair = [sets.draw_features(256, seed=seed, dimensions=40, shift=seed / 10) for seed in (1, 2)]
    found["tfgan_256_40"] = tfgan.eval.frechet_classifier_distance_from_activations(*pair).numpy()
    logits = 3 * sets.draw_features(500, seed=3, dimensions=101)
    found["score_500_101"] = tfgan.eval.classifier_score_from_logits(logits).numpy()
    np.savez_compressed(HERE / "tensorflow.npz", **found)


def main() -> None:
    kind, checkouts = sys.argv[1], Path(sys.argv[2])
    if kind == "tensorflow":
        write_tensorflow(checkouts)
        return
    write_draws()
    write_kernels()
    write_preparations(checkouts)
    write_bytes(checkouts)
    write_files(checkouts)
    write_scores(checkouts)


if __name__ == "__main__":
    main()
