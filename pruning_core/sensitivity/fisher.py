"""Fisher: the trace of the Fisher information, how fast the predictions change with the weights of a matrix."""

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from pruning_core.progress import Progress, ignore_progress
from pruning_core.sensitivity import SENSITIVITIES, Profile, SensitivityInputs
from pruning_core.sensitivity.estimation.gradients import (
    checked_windows,
    each_gradient,
    prediction_logits,
    weights_of,
)
from pruning_core.sensitivity.estimation.repeated_measurements import Normalise, half_sample_correlation, profile_of


@SENSITIVITIES.register("fisher")
class Fisher:
    """E ||gradient of a sequence's mean loss||^2 over the weights of a matrix (used for layers by arXiv:2503.11164).

    The square is taken for each sequence: that of the mean gradient vanishes where training has converged.

    labels: of the loss.
        data: the text's own next tokens (the empirical Fisher).
        sampled: drawn from the model's predictions (the true Fisher, which equals the Gauss-Newton Hessian).
    normalise: mean per weight, or the sum over a matrix.
    sequences: how many of the calibration windows; all where absent.
    seed: of the sampled labels.
    """

    labels: Literal["data", "sampled"] = "data"
    normalise: Normalise = "mean"
    sequences: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0
    needs = frozenset({"model", "tokens"})

    def measure(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Profile:
        """The mean over sequences; its errors are those of a sample of sequences."""
        samples = self.traces(inputs, progress)
        details = {
            "sequences": samples.shape[1],
            "half_sample_rank_correlation": half_sample_correlation(samples),
        }
        return profile_of(samples, inputs.matrices, self.normalise, details)

    def traces(self, inputs: SensitivityInputs, progress: Progress = ignore_progress) -> Tensor:
        """[matrices, sequences] float64: the squared norm of each sequence's gradient, one backward each."""
        windows = checked_windows(inputs.model, inputs.tokens, self.sequences)
        weights = weights_of(inputs.model, inputs.matrices)
        row = {name: position for position, name in enumerate(weights)}
        norms = torch.zeros(len(weights), len(windows), dtype=torch.float64, device=inputs.model.device)
        draw = torch.Generator().manual_seed(self.seed)
        for position, window in enumerate(windows):

            def arrive(name: str, gradient: Tensor, column: int = position) -> None:
                norms[row[name], column] = torch.linalg.vector_norm(gradient, dtype=torch.float64).square()

            with torch.enable_grad(), each_gradient(weights, arrive):
                logits = prediction_logits(inputs.model, window)
                F.cross_entropy(logits, self._targets(window, logits, draw)).backward()
            progress(position + 1, len(windows))
        return norms.cpu()

    def _targets(self, window: Tensor, logits: Tensor, draw: torch.Generator) -> Tensor:
        if self.labels == "data":
            return window[1:].to(logits.device)
        # Drawn on the CPU: a seed means the same labels whatever the device.
        return torch.multinomial(logits.detach().cpu().softmax(-1), 1, generator=draw)[:, 0].to(logits.device)
