# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""The clips that an evaluation of generated clips keeps for display, and how they are listed.

`WORKDIR/report/media/PROTOCOL/KIND-ID.mp4` are at most 24 clips of each kind: `real`,
`reconstructed` (the real one through the tokenizer) and `generated`. The same ID in all three means
the same real clip; `generated` has its label or its first frames where the protocol pairs them.
`WORKDIR/report/clips.json` is a list with an object for each file:

    protocol          name of the protocol
    id                number of the clip in the evaluated order
    kind              "real", "reconstructed" or "generated"
    file              path below `report/`, with /
    label             class name, "" where there is none
    why               "best", "worst" (by `feature_distance` of the generated clip) or "spread"
    paired            whether the generated clip shares its label or first frames with the real one
    given_frames      pixel frames at its start that were given, 0 for none
    feature_distance  of its features from the mean of the real ones, in the metric of their
                      covariance (about the square root of the dimensions for a typical real clip);
                      null where it was not computed
    psnr              dB, from the real clip: `reconstructed`, and `generated` after the given
                      frames; else null
    psnr_per_frame    the same for each frame of the clip, or null
    seconds           of drawing and decoding a `generated` clip, its share of a batch; else null

An evaluation replaces the rows and the files of its own protocol and leaves others alone. Reports
(`WORKDIR/report/PROTOCOL.json`) of protocols that generate clips have, beside the older keys:

    generation   clips, seed, passes, seconds, clips_per_second, frames_per_second, seconds_of
                 {part: seconds}: "draw", "features", "real"
    reference    what the real set was: clips, fingerprint, file of its cached features
    per_class    [{label, count, feature_distance, label_agreement}]: means over generated clips;
                 null where not measured; [] without labels
    code_usage   {"real" | "generated": {codes, used, usage, perplexity, curve}}: `curve` is the
                 share of all tokens that the k/64 most frequent codes make, k = 1..64
    leaks        {checked, train_test_names: [...], duplicates: [[path or id, path or id], ...],
                 duplicate_clips}: see nbp.jobs.leaks
    repeats      [{seed, score, value}], and `scores` has NAME (their mean) and NAME_std
"""
