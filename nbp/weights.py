# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The networks that scores are made with: converted weights, or fixed random ones."""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nbp import build
from nbp.errors import CheckpointError, ConfigError
from nbp.files import read_json
from nbp.interop.identity import FILES, PUBLIC, UNKNOWN, KnownFile, describe_origin
from nbp.metrics.fvd import FeatureExtractor
from nbp.metrics.inception_score import ClassProbabilities
from nbp.metrics.lpips import LpipsScorer
from nbp.metrics.score_table import FeatureKind
from nbp.models.c3d import C3dNetwork, C3dSpec
from nbp.models.i3d import PYTORCH_EPSILON, SIZE, TFHUB_EPSILON, I3dNetwork, I3dSpec
from nbp.models.lpips import VGG16, LpipsNetwork
from nbp.protocols.protocol import Detector, Protocol
from nbp.shapes import PyTree
from nbp.workdir import CONVERTED

# In place of a folder: I3D with random weights, always the same. Good for trends and tests. It is
# nobody's detector but ours, so it looks at 64 px instead of 224, in a twelfth of the time. Another
# way of computing it gets another version.
RANDOM = "random-i3d"
RANDOM_SEED, RANDOM_SIZE, RANDOM_VERSION = 0, 64, 2
# Of converted weights that no epsilon was recorded for, by the format of their file.
OLD_EPSILONS = {"torch": PYTORCH_EPSILON, "torchscript": TFHUB_EPSILON}

Place = Callable[[Any], Any]
MakeI3d = Callable[[int], I3dNetwork]  # from px of its input
MakeC3d = Callable[[], C3dNetwork]


def make_i3d(size: int) -> I3dNetwork:
    """I3D for frames of `size` px."""
    return I3dNetwork(I3dSpec(size=size), build.make_conv())


def make_c3d() -> C3dNetwork:
    """C3D with UCF101's classes."""
    return C3dNetwork(C3dSpec(), build.make_conv())


@dataclass(frozen=True)
class Weights:
    """Parameters and where they come from: for a report."""

    params: PyTree
    origin: dict[str, Any]


@dataclass(frozen=True)
class Features:
    """Features of a Frechet distance. kind: whether they are those that published numbers have."""

    extractor: FeatureExtractor
    origin: dict[str, Any]
    kind: FeatureKind

    @property
    def published(self) -> bool:
        return self.kind == "published"

    @property
    def deviation(self) -> str:
        """Whose features these are, where they are not the protocol's; else ""."""
        if self.kind == "random":
            return self.origin["detector"]
        return "" if self.published else self.origin["source"]


def load_features(
    choice: str,
    protocol: Protocol,
    *,
    frames: int,
    place: Place,
    copy: Place,
    known: Mapping[str, KnownFile] = PUBLIC,
    make_network: MakeI3d = make_i3d,
) -> Features | None:
    """The features of `choice`, a folder or `random-i3d`; None where the protocol needs none.

    frames: of a clip. place: puts clips on the devices; copy: puts parameters there.
    known: public files by git blob id; those of any other file give another score.
    make_network: the network that the weights are for. Raises
    ConfigError, which names the file to get and the command to convert it, where the folder does
    not hold what the protocol asks for.
    """
    rule = protocol.features
    if rule is None:
        if choice:
            raise ConfigError(
                f"--features {choice}: protocol {protocol.name} computes no features; "
                "use reconstruction or another protocol"
            )
        return None
    if not choice:
        if protocol.features_optional:
            return None
        raise ConfigError(
            f"protocol {protocol.name} needs I3D features: {describe_remedy(rule.detector)}; "
            f"--features {RANDOM} gives a number for trends that compares with no other"
        )
    network = make_network(RANDOM_SIZE if choice == RANDOM else SIZE)
    scored, least = rule.frames or frames, network.least_frames
    if scored < least:
        raise ConfigError(
            f"--features {choice}: I3D needs clips of {least} frames, these have {scored}"
        )
    kind: FeatureKind
    if choice == RANDOM:
        drawn = {"seed": RANDOM_SEED, "size": RANDOM_SIZE, "version": RANDOM_VERSION}
        origin = {"detector": RANDOM, **drawn, "published": False}
        weights, kind = Weights(draw_i3d(network), origin), "random"
    else:
        weights = load_i3d(Path(choice), network, describe_remedy(rule.detector))
        kind, about = recognize(weights.origin, known)
        if kind == "published" and rule.detector not in ("any", about["detector"]):
            raise ConfigError(
                f"--features {choice}: protocol {protocol.name} uses {rule.detector}, this is "
                f"{about['detector']} ({weights.origin['file']}); {describe_remedy(rule.detector)}"
            )
        weights = Weights(weights.params, {**weights.origin, **about})
        spec = replace(network.spec, epsilon=rule.epsilon or about["epsilon"])
        network = replace(network, spec=spec)
    weights.origin["epsilon"] = network.spec.epsilon
    extractor = FeatureExtractor(network, copy(weights.params), rule, place=place)
    return Features(extractor, weights.origin, kind)


def recognize(
    origin: Mapping[str, Any], known: Mapping[str, KnownFile]
) -> tuple[FeatureKind, dict[str, Any]]:
    """Whether converted I3D weights are those of published numbers, and what a report says of them.

    They are known by the git blob id that `nbp.convert` recorded. Older conversions have none, and
    count as others. The epsilon of the normalisation is no tensor of a file: it is that of the code
    around it, so it follows the file; for an unknown one it was recorded, or follows its format.
    """
    found = known.get(origin.get("blob", ""))
    if found is not None and found.network != "i3d":
        found = None
    epsilon = origin.get("epsilon", OLD_EPSILONS.get(origin.get("format", ""), PYTORCH_EPSILON))
    if found is not None and found.epsilon is not None:
        epsilon = found.epsilon
    published = found is not None and found.published
    about = {
        "detector": UNKNOWN if found is None else found.name,
        "source": describe_origin(origin, known),
        "published": published,
        "epsilon": epsilon,
    }
    return "published" if published else "other", about


def load_lpips(
    folder: str, *, place: Place, copy: Place, network: LpipsNetwork = VGG16
) -> tuple[LpipsScorer | None, dict[str, Any] | None]:
    """The scorer with the weights in a folder, and what they are; None for no folder ("")."""
    if not folder:
        return None, None
    scorer = LpipsScorer(copy(build.load_lpips(folder, network)), network, place=place)
    return scorer, read_origin(Path(folder), "lpips")


def load_c3d(
    folder: str, *, place: Place, copy: Place, make_network: MakeC3d = make_c3d
) -> tuple[ClassProbabilities | None, dict[str, Any] | None]:
    """C3D with the weights in a folder, and what they are; None for no folder ("")."""
    if not folder:
        return None, None
    if not (build.stage_directory(Path(folder), "c3d") / "checkpoints").is_dir():
        raise ConfigError(
            f"{folder} holds no converted C3D: get a PyTorch file of C3D with UCF101's classes, "
            f"then: python -m nbp.convert c3d --source FILE --out {folder}"
        )
    network = make_network()
    trained = build.load_trained(Path(folder), "c3d", network=network, ema=False)
    classes = ClassProbabilities(network, copy(trained.params), place=place)
    return classes, read_origin(Path(folder), "c3d")


def load_i3d(folder: Path, network: I3dNetwork, remedy: str) -> Weights:
    """What `nbp.convert i3d --out FOLDER` wrote; ConfigError, with the remedy, where it is not."""
    if not (build.stage_directory(folder, "i3d") / "checkpoints").is_dir():
        raise ConfigError(f"{folder} holds no converted I3D: {remedy}")
    trained = build.load_trained(folder, "i3d", network=network, ema=False)
    return Weights(trained.params, read_origin(folder, "i3d"))


def read_origin(folder: Path, name: str) -> dict[str, Any]:
    """The published file that converted weights come from: its name, sha256 and format."""
    path = build.stage_directory(folder, name) / CONVERTED
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{path} cannot be read ({error}): convert the weights again"
        ) from error


def draw_i3d(network: I3dNetwork) -> PyTree:
    """I3D with random kernels that keep the scale of what passes through, as plain numpy draws.

    Each array depends on its own name and `RANDOM_SEED` alone: no version of JAX changes it.
    """
    template = jax.eval_shape(network.init, jax.random.key(0))

    def draw(path: Any, leaf: Any) -> jax.Array:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        last = name.rpartition("/")[2]
        if last != "kernel":
            return jnp.full(leaf.shape, float(last in ("scale", "variance")), jnp.float32)
        rng = np.random.default_rng((RANDOM_SEED, zlib.crc32(name.encode())))
        spread = np.sqrt(2.0 / np.prod(leaf.shape[:-1]))
        return jnp.asarray(rng.standard_normal(leaf.shape) * spread, jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, template)


def describe_remedy(detector: Detector) -> str:
    """Which file to get, where public repositories hold it, and the commands from there."""
    fitting = [
        file
        for file in FILES
        if file.network == "i3d" and file.published and detector in ("any", file.name)
    ]
    files = " or ".join(
        f"{file.file} of {file.owner} ({file.places[0]}, git blob {file.blob[:12]})"
        for file in fitting
    )
    return (
        f"get {files}, then: python -m nbp.convert i3d --source {fitting[0].file} --out DIR "
        "and --features DIR"
    )
