# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Pages of the library's reference: title, what it is about, modules of nbp in reading order."""

PAGES = {
    "run": (
        "A trained run",
        "What `nbp.load` opens, and the errors that everything raises.",
        "run errors",
    ),
    "layout": (
        "Blocks and shapes",
        "Which token is read, predicted and seen where. On all pages `Float['b t d']` is an array "
        "of floats whose dimensions have the letters of the table below.",
        "layout shapes",
    ),
    "config": (
        "Configuration",
        "Every key with its default and range, and the objects that configurations become. "
        "`float['(0, 1]']` is a number above 0 and at most 1.",
        "config config.schema config.grids config.sweep ranges build "
        "build_data build_sampling stages",
    ),
    "sampling": (
        "Sampling",
        "From labels or frames to clips.",
        "sampling.settings sampling.request sampling.sampler sampling.generate sampling.filtering "
        "sampling.top_p sampling.speculative sampling.self_speculative sampling.refinement "
        "sampling.long_video sampling.rolling sampling.story",
    ),
    "models": (
        "Networks",
        "The generator, the tokenizer, and the networks that score them.",
        "models.generator models.heads models.joint_head models.inference models.tokenizer "
        "models.tokenizer_streaming models.discriminator models.network models.i3d models.c3d "
        "models.lpips",
    ),
    "nn": (
        "Layers",
        "Parts of networks: transformer, convolution, quantizers, attention.",
        "nn.transformer nn.rotary nn.conv3d nn.quantizer nn.fsq nn.lfq nn.vq nn.digits "
        "nn.attention.reference nn.attention.choose nn.attention.kv_cache nn.attention.pallas "
        "nn.attention.mosaic nn.attention.splash nn.attention.cudnn",
    ),
    "training": (
        "Training",
        "Objectives, the one loop, and what watches over it.",
        "tasks.generator tasks.draft tasks.corrupted_context tasks.tokenizer tasks.adversary "
        "losses training.task training.loop training.state training.optimizer training.precision "
        "training.checkpoint training.metrics training.guards training.rollback training.goodput "
        "tracking.tracker tracking.tracking",
    ),
    "parallel": (
        "Many devices",
        "Meshes, sharding, processes.",
        "parallel.mesh parallel.sharding parallel.distributed parallel.cross_entropy parallel.hlo",
    ),
    "data": (
        "Data",
        "From files to batches.",
        "data.pipeline data.sources data.records data.token_cache data.buckets data.augmentation "
        "data.masks data.moving_shapes data.moving_world data.images data.video.decode "
        "data.video.encode data.video.resize",
    ),
    "metrics": (
        "Scores",
        "A file each; what their names mean is in the table.",
        "metrics.score_table metrics.fvd metrics.frechet metrics.kvd metrics.precision_recall "
        "metrics.inception_score metrics.psnr_ssim metrics.lpips metrics.reconstruction "
        "metrics.label_agreement metrics.drift metrics.survival metrics.independence_gap "
        "metrics.scaling_law metrics.feature_statistics metrics.stream metrics.estimates",
    ),
    "protocols": (
        "Protocols and evaluations",
        "Named, versioned ways to score, and a protocol applied to a workdir.",
        "protocols protocols.protocol protocols.published protocols.clip_lists evaluation.setup "
        "evaluation.generation evaluation.score_generated evaluation.score_reconstruction "
        "evaluation.during_training evaluation.result",
    ),
    "interop": (
        "Weights of others",
        "Files of PyTorch and others, read without running anything that they hold.",
        "interop.reading interop.mapping interop.official interop.infer_config interop.unpickle "
        "interop.archives weights init_from",
    ),
    "hub": (
        "Published models",
        "Folders for a hub, written by `nbp.export` and opened by `nbp.load`.",
        "hub.publish hub.folder hub.safetensors hub.model_card hub.official_layout",
    ),
}
