# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Labels over time: what a story says of each latent frame, and that windows draw by it."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from nbp.errors import ConfigError
from nbp.layout import LatentGrid, Opening, frames_of_latents
from nbp.models.tokenizer import TokenizerNetwork, TokenizerSpec
from nbp.nn.conv3d import taps_conv
from nbp.sampling.long_video import Rollout, Slide, choose_rolling
from nbp.sampling.sampler import Sampler
from nbp.sampling.settings import SamplingConfig
from nbp.sampling.story import Condition, Line, Scene, Story, read_story
from tests.models.toy import draw_params, make_network

TOKENIZER = TokenizerNetwork(
    TokenizerSpec(widths=(4, 4), units=(0, 0), strides=((2, 2, 2),), levels=(4, 3), groups=2),
    taps_conv,
)
# Windows of four latent frames, 7 frames; a label and a guidance change what is drawn.
NETWORK = make_network(LatentGrid(4, 2, 2), (1, 1, 2), Opening("hybrid", 2), prompt=1, codes=12)
STRIDE, KEEP, COUNT = 2, 2, 2
STORY = Story((Scene(9, 0), Scene(6, 4, guidance=1.5), Scene(4, None)), STRIDE)


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    params = draw_params(NETWORK)
    return Sampler(
        NETWORK, params, TOKENIZER, draw_params(TOKENIZER), sampling=SamplingConfig(temperature=0.0)
    )


def roll(sampler: Sampler, kind: str, story: Story | None, frames: int, keep: int = KEEP):
    rollout = Rollout(sampler, Slide(keep, kind), story)  # type: ignore[arg-type]
    pieces = list(rollout.sample(COUNT, frames, seed=5, labels=[0] * COUNT))
    tokens = np.concatenate([piece.tokens for piece in pieces], axis=1)
    return np.concatenate([piece.videos for piece in pieces], axis=1), tokens


def sample(sampler: Sampler, scene: Scene, **given):
    """One window under the condition of a scene, by the sampler of clips."""
    scale = sampler.sampling.guidance if scene.guidance is None else scene.guidance
    sampling = dataclasses.replace(sampler.sampling, guidance=scale)
    labels = None if scene.label is None else [scene.label] * COUNT
    return dataclasses.replace(sampler, sampling=sampling).sample(
        COUNT, seed=5, labels=labels, **given
    )


def scene_at(latent: int) -> tuple[Scene, int]:
    """By counting: the scene of a latent frame of STORY, and the frame where the next begins."""
    ends = [5, 8, 10]  # latent frames of 9, 6 and 4 frames, of which the first stands for one
    index = next(i for i, end in enumerate(ends) if latent < end)
    return STORY.scenes[index], ends[index]


@pytest.mark.parametrize("kind", ["reencode", "codes"])
def test_each_window_is_drawn_under_the_condition_in_force(sampler, kind):
    """Against clips drawn one by one, of which the latent frames of their scene are kept."""
    clip = sample(sampler, STORY.scenes[0])
    videos, codes, last = clip.videos, clip.tokens, clip.videos
    while codes.shape[1] < 10:
        scene, end = scene_at(codes.shape[1])
        shown = frames_of_latents(KEEP, STRIDE)
        if kind == "reencode":
            pads = ((0, 0), (0, 7 - shown), *[(0, 0)] * 3)
            given = {"clips": np.pad(last[:, -shown:], pads, mode="edge")}
        else:
            pads = ((0, 0), (0, 4 - KEEP), (0, 0), (0, 0))
            given = {"codes": np.pad(codes[:, -KEEP:], pads)}
        clip = sample(sampler, scene, given_frames=KEEP, **given)
        new = min(4 - KEEP, end - codes.shape[1])
        codes = np.concatenate([codes, clip.tokens[:, KEEP : KEEP + new]], axis=1)
        last = clip.videos[:, : frames_of_latents(KEEP + new, STRIDE)]
        videos = np.concatenate([videos, last[:, shown:]], axis=1)
    found, tokens = roll(sampler, kind, STORY, STORY.frames)
    np.testing.assert_array_equal(tokens, codes)
    assert found.shape[1] == STORY.frames == 19
    if kind == "codes":
        videos = np.asarray(jax.jit(TOKENIZER.decode)(sampler.tokenizer_params, codes))
    assert np.abs(found.astype(int) - videos).max() <= 1


def test_an_anchor_is_computed_with_each_prompt(sampler):
    # Drawn, not greedy: the largest logit of this small model is the same for all labels.
    sampling = dataclasses.replace(sampler.sampling, temperature=1.0, guidance=4.0)
    sampler = dataclasses.replace(sampler, sampling=sampling)
    plain, before = roll(sampler, "anchor", None, 19)
    # Scenes that end with a window and say what held before change nothing.
    same = Story((Scene(11, 0), Scene(8, 0)), STRIDE)
    videos, tokens = roll(sampler, "anchor", same, 19)
    np.testing.assert_array_equal(tokens, before)
    np.testing.assert_array_equal(videos, plain)
    _, tokens = roll(sampler, "anchor", Story((Scene(11, 0), Scene(8, 4)), STRIDE), 19)
    np.testing.assert_array_equal(tokens[:, :6], before[:, :6])
    assert np.any(tokens[:, 6:] != before[:, 6:])
    # A scene that ends within a window: the window is cut, what it drew behind it is gone.
    _, tokens = roll(sampler, "anchor", Story((Scene(9, 0), Scene(10, 4)), STRIDE), 19)
    np.testing.assert_array_equal(tokens[:, :5], before[:, :5])
    assert np.any(tokens[:, 5:] != before[:, 5:])
    # Guidance comes and goes: the cache has other rows then.
    story = Story((Scene(11, 0, guidance=0.0), Scene(8, None)), STRIDE)
    assert roll(sampler, "anchor", story, 19)[1].shape[1] == 10


def test_a_story_is_a_function_of_the_latent_frame():
    assert STORY.first_frames == (0, 9, 15)
    assert STORY.starts == (0, 5, 8)
    assert STORY.at(0) == STORY.at(4) == Condition(0, 0, None, 5)
    assert STORY.at(5) == STORY.at(7) == Condition(1, 4, 1.5, 8)
    assert STORY.at(8) == STORY.at(800) == Condition(2, None, None, None)
    assert Story((Scene(3, 1),), STRIDE).at(0) == Condition(0, 1, None, None)
    # Every latent frame lies whole within its scene.
    for latent in range(10):
        frames = range(
            frames_of_latents(latent, 2) if latent else 0, frames_of_latents(latent + 1, 2)
        )
        scenes = {
            max(i for i, f in enumerate(STORY.first_frames) if f <= frame) for frame in frames
        }
        assert scenes == {STORY.at(latent).scene}
    STORY.check(depth=1, least=5)
    with pytest.raises(ConfigError, match="first scene takes 9 of the 11 frames"):
        STORY.check(depth=1, least=6)
    with pytest.raises(
        ConfigError, match="scene 2 begins with frame 9, within a block; .* 7 or 11"
    ):
        STORY.check(depth=2, least=1)
    with pytest.raises(ConfigError, match="scene 3 begins with frame 10, .* have 9 or 11 frames"):
        Story((Scene(5, 0), Scene(5, 1), Scene(4, 0)), STRIDE).check(depth=1, least=1)


def test_stories_are_lines_json_or_lists(tmp_path):
    lines = [Line(17, "red square right"), Line(16, "blue disk", 2.5), Line(4, "none", 0.0)]
    text = tmp_path / "story.txt"
    text.write_text(
        "# a story\n17 red square right\n\n16 guidance=2.5 blue disk # turns\n 4 guidance=0 none\n"
    )
    assert read_story(text) == read_story(str(text)) == lines
    items = [[17, "red square right"], [16, "blue disk", 2.5]]
    items += [{"frames": 4, "label": "none", "guidance": 0}]
    assert read_story(items) == lines
    (tmp_path / "story.json").write_text(json.dumps(items))
    assert read_story(tmp_path / "story.json") == lines


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "there is no scene; write FRAMES LABEL"),
        ("# nothing", "there is no scene"),
        ("17", "line 1: no label; write FRAMES LABEL"),
        ("5 red\nred 5", "line 2: 'red' is not a whole number from 1"),
        ("0 red", "line 1: 0 is not a whole number from 1"),
        ("5 guidance=nan red", "line 1: 'nan' is not a number from 0 to 1000"),
        ("5 guidance=1", "line 1: no label"),
        ("[5, 6", "this is no JSON"),
        ("{}", "give a list of scenes"),
        ("[5]", "scene 1: 5 is no scene"),
        ('[{"frames": 5, "label": "red", "scale": 1}]', "unknown 'scale'; use frames, label"),
        ('[["5.5", "red"]]', "scene 1: '5.5' is not a whole number"),
        ("[[5, null]]", "scene 1: no label"),
    ],
)
def test_what_is_no_story_is_told_in_one_line(tmp_path, text, message):
    file = tmp_path / "story"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_story(file)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="--story .*absent: it cannot be read"):
        read_story(tmp_path / "absent")


def test_a_rolling_cache_takes_the_new_prompt_between_blocks():
    network = make_network(
        LatentGrid(4, 2, 2), (1, 1, 2), Opening("hybrid", 2), prompt=1, codes=12, positions="rotary"
    )
    sampling = SamplingConfig(temperature=1.0, guidance=4.0)
    params = (draw_params(network, seed=3), TOKENIZER, draw_params(TOKENIZER))
    rollout = Rollout(
        Sampler(network, *params, sampling=sampling), choose_rolling(network.plan, sinks=None)
    )

    def draw(*scenes: Scene) -> np.ndarray:
        told = dataclasses.replace(rollout, story=Story(scenes, STRIDE) if scenes else None)
        pieces = told.sample(COUNT, 17, seed=5, labels=[0] * COUNT)
        return np.concatenate([piece.tokens for piece in pieces], axis=1)

    plain = draw()
    changed = draw(Scene(11, 0), Scene(6, 4))
    np.testing.assert_array_equal(changed[:, :6], plain[:, :6])
    assert np.any(changed[:, 6:] != plain[:, 6:])
    # A scene that ends within the first clip: what stands before its end stays.
    early = draw(Scene(5, 0), Scene(12, 4))
    np.testing.assert_array_equal(early[:, :3], plain[:, :3])
    assert np.any(early[:, 3:] != plain[:, 3:])
    # The cache is made anew, so guidance may come and go.
    free = draw(Scene(11, 0), Scene(4, None), Scene(2, 4, 2.0))
    np.testing.assert_array_equal(free[:, :6], plain[:, :6])
    assert free.shape == plain.shape
    # Behind a change a block is that of a clip of the sink, the latest frames and the new label.
    sampler = dataclasses.replace(rollout.sampler, sampling=SamplingConfig(temperature=0.0))
    rollout = dataclasses.replace(rollout, sampler=sampler)
    for first in (11, 13):
        told, latent = draw(Scene(first, 0), Scene(6, 4)), 1 + (first - 1) // STRIDE
        codes = np.concatenate([told[:, :1], told[:, latent - 2 : latent + 1]], axis=1)
        clips = sampler.sample(COUNT, seed=9, labels=[4] * COUNT, codes=codes, given_frames=3)
        np.testing.assert_array_equal(clips.tokens[:, 3], told[:, latent])
