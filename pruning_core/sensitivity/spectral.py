"""AlphaPruning: how heavy the tail of a matrix's spectrum is, from the weights alone."""

import torch
from torch import Tensor

from pruning_core.progress import Progress, ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs
from pruning_core.sensitivity.estimation.loaded_matrices import loaded_matrices

BINS = 100
"""Of the histogram of the logarithms of the eigenvalues, whose peak says where the tail may begin."""
AROUND_PEAK = (0.95, 1.5)
"""The tail begins at an eigenvalue between these multiples of the peak."""


@SENSITIVITIES.register("spectral")
class Spectral:
    """1 / alpha, alpha the exponent of the power law that the largest eigenvalues of W^T W follow (arXiv:2410.10912).

    A heavy tail (small alpha) is what training makes of a matrix that learned much: prune it less. The Hill estimate of
    alpha is taken from the start of the tail, near the peak of the spectrum, where the law fits best. A block has the
    mean alpha of its matrices; a matrix without a tail (all its eigenvalues alike, or all zero) has 1 / alpha = 0.
    """

    needs = frozenset({"weights"})

    def measure(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Profile:
        count = 1 + max(matrix.block for matrix in inputs.matrices)
        matrices: dict[str, float] = {}
        blocks: list[float] = []
        for index in range(count):
            with loaded_matrices(inputs.model, index) as weights:
                exponents = {name: inverse_alpha(eigenvalues(weight)) for name, weight in weights.items()}
            matrices |= exponents
            # The harmonic mean of 1 / alpha is 1 / the mean of alpha, and 0 where one alpha is infinite.
            blocks.append(
                len(exponents) / sum(1 / value for value in exponents.values())
                if exponents and all(exponents.values())
                else 0.0
            )
            progress(index + 1, count)
        return Profile({matrix.name: matrices[matrix.name] for matrix in inputs.matrices}, blocks)


def eigenvalues(weight: Tensor) -> Tensor:
    """[min(out, in)] float64 on the CPU: the squared singular values of `weight` [out, in], ascending."""
    weight = weight.double() if weight.shape[0] <= weight.shape[1] else weight.double().T
    spectrum: Tensor = torch.linalg.eigvalsh(weight @ weight.T)
    return spectrum.cpu()


def inverse_alpha(spectrum: Tensor) -> float:
    """1 / alpha of eigenvalues [n] in ascending order.

    For each start k of the tail, alpha = 1 + m / sum(log(l_i / l_k)) over its m eigenvalues i >= k; the start is the
    one near the peak whose power law is closest to the tail in Kolmogorov's and Smirnov's distance.
    """
    # Smaller ones are rounding of zero.
    spectrum = spectrum[spectrum > spectrum[-1] * len(spectrum) * torch.finfo(torch.float64).eps]
    best, closest = 0.0, torch.inf
    for start in _starts(spectrum):
        tail = spectrum[start:]
        logarithms = (tail / tail[0]).log()
        spread = float(logarithms.sum())
        if spread == 0:
            continue
        # 1 - (l / l_k)^(1 - alpha) of the tail lies below l by the law, i / m of it by count.
        law = 1 - (logarithms * (-len(tail) / spread)).exp()
        distance = float((law - torch.arange(len(tail)) / len(tail)).abs().max())
        if distance < closest:
            best, closest = spread / (spread + len(tail)), distance
    return best


def _starts(spectrum: Tensor) -> list[int]:
    """Where the tail may begin: the indices of all eigenvalues near the peak of the spectrum but for the largest."""
    if len(spectrum) < 2:
        return []
    logarithms = spectrum.log10()
    low, high = float(logarithms[0]), float(logarithms[-1])
    counts = torch.histc(logarithms, BINS, low, high)
    peak = 10 ** (low + (high - low) * int(counts.argmax()) / BINS)
    near = (spectrum >= AROUND_PEAK[0] * peak) & (spectrum <= AROUND_PEAK[1] * peak)
    return [int(index) for index in near.nonzero()[:, 0] if index < len(spectrum) - 1]
