# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The steps of each published repository as numpy, from what its sources say.

One module for a repository, one function for a step, with the file and line that it stands for.
The repositories' own libraries have a module each kind: `resampling` (PyTorch, torchvision, OpenCV,
TensorFlow, FFmpeg), `drawing` (random generators), `scoring` (moments and distances) and `files`
(decord, imageio). Nothing here imports nbp.
"""
