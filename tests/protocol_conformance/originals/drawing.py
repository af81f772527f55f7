# Copyright 2026 The NBP Authors
# SPDX-License-Identifier: Apache-2.0
"""Random draws of the originals that a seed fixes."""

import random
from collections.abc import Sequence

# Parameters of the generator MT19937 (Matsumoto and Nishimura 1998), which PyTorch seeds with the
# 2002 initialisation and reads 32 bits at a time.
_WORDS, _FACTOR = 624, 1812433253


def torch_generator(seed: int) -> random.Random:
    """The generator of torch.Generator().manual_seed(seed) on a CPU, as Python's own."""
    words = [seed & 0xFFFFFFFF]
    for number in range(1, _WORDS):
        last = words[-1]
        words.append((_FACTOR * (last ^ (last >> 30)) + number) & 0xFFFFFFFF)
    generator = random.Random()
    generator.setstate((3, (*words, _WORDS), None))
    return generator


def torch_permutation(count: int, seed: int) -> list[int]:
    """torch.randperm(count, generator=torch.Generator().manual_seed(seed))."""
    generator = torch_generator(seed)
    order = list(range(count))
    for place in range(count - 1):
        other = place + generator.getrandbits(32) % (count - place)
        order[place], order[other] = order[other], order[place]
    return order


def distributed_shares(count: int, ranks: int) -> list[list[int]]:
    """What torch's DistributedSampler gives to each rank: shuffled with seed 0, epoch 0, padded."""
    order = torch_permutation(count, 0)
    order += order[: -count % ranks]
    return [order[rank::ranks] for rank in range(ranks)]


def python_sample(population: Sequence[int] | range, count: int, seed: int) -> list[int]:
    """random.Random(seed).sample(...), which is Python's own."""
    return random.Random(seed).sample(population, count)


def loader_generators(seed: int, workers: int) -> list[random.Random]:
    """Python's generators in the workers of a torch DataLoader, where the process has this seed.

    The loader draws 63 bits, high half first, of torch's generator; worker w adds w to them.
    """
    generator = torch_generator(seed)
    high, low = generator.getrandbits(32), generator.getrandbits(32)
    base = (high << 32 | low) & (1 << 63) - 1
    return [random.Random(base + worker) for worker in range(workers)]
