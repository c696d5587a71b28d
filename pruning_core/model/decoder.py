"""Any Hugging Face causal language model as a sequence of decoder blocks, loaded one at a time."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.pytorch_utils import Conv1D

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.errors import InputError
from pruning_core.model.block_list import find_blocks
from pruning_core.model.experts import Experts, in_stages, routing, unfuse
from pruning_core.model.narrowed import from_config
from pruning_core.model.stored_names import Place, by_stored_tensor, stored_places


@dataclass(frozen=True)
class BlockCall:
    """The arguments, beside the hidden states, with which a model calls one of its blocks."""

    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)

    def run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        """Hidden states after the block: [batch, tokens, width]."""
        out = block(hidden, *self.args, **self.kwargs)
        after: Tensor = out[0] if isinstance(out, tuple) else out
        return after


class _Reached(Exception):
    """Raised to leave a model's forward once the first block is reached."""


class Decoder:
    """A causal LM whose weights stay on disk until a block is loaded.

    Modules live on the meta device. A block is loaded by `load_block` and its memory given back by `drop_block`; what
    runs outside the blocks (embeddings) is loaded where it is needed and given back by `drop_outside`. Forward passes
    run in evaluation mode. Experts run unfused.

    Args:
        directory: Hugging Face model directory with safetensors.
        config: its configuration.
        device: where blocks run.
        dtype: of weights and hidden states in forward passes; statistics and solvers are float32 whatever it is.

    Raises:
        InputError: the architecture has no recognisable list of blocks or experts of an unknown kind, or a tensor is
            missing in the files.
    """

    def __init__(
        self,
        directory: Path,
        config: PretrainedConfig,
        trust_remote_code: bool = False,
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> None:
        # Only this package's dependency accelerate keeps non-persistent buffers (rotary tables) real here.
        from accelerate import init_empty_weights

        self.checkpoint = Checkpoint(directory)
        self.device, self.dtype = torch.device(device), dtype
        with init_empty_weights(include_buffers=False):
            self.model: PreTrainedModel = from_config(config, dtype, trust_remote_code=trust_remote_code).eval()
        for name, buffer in list(self.model.named_buffers()):
            if not buffer.is_meta:
                owner, _, attribute = name.rpartition(".")
                setattr(self.model.get_submodule(owner), attribute, buffer.to(self.device))
        # Modules made on the meta device lose the sharing of tied weights.
        self.model.tie_weights()
        self.model.config.use_cache = False
        self.block_prefix, self.blocks = find_blocks(self.model, config)
        places = stored_places(self.model, self.checkpoint)
        unfuse(self.model)
        self._stored = _complete(places, self.model, self.checkpoint)
        self._calls: dict[tuple[int, ...], list[BlockCall]] = {}
        skipped = _head_only(self.model)
        self._outside = [
            name
            for name, parameter in self.model.named_parameters()
            if not name.startswith(f"{self.block_prefix}.") and id(parameter) not in skipped
        ]
        self._outside_loaded = False

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def has_experts(self) -> bool:
        """Whether any block is a mixture of experts."""
        return any(isinstance(module, Experts) for module in self.blocks.modules())

    def linears(self, index: int) -> dict[str, nn.Module]:
        """Prunable matrices of a block: full module name -> nn.Linear or Conv1D.

        What routes tokens to experts is none of them: it is tiny, and a wrong choice costs more than a wrong weight.
        """
        kept = routing(self.blocks[index])
        return {
            f"{self.block_prefix}.{index}.{name}": module
            for name, module in self.blocks[index].named_modules()
            if isinstance(module, nn.Linear | Conv1D) and module not in kept
        }

    def watched(self, index: int) -> dict[str, nn.Module]:
        """What calibration stops in front of: a block's matrices, those of experts by the stages of their layer."""
        prefix = f"{self.block_prefix}.{index}."
        modules = {prefix + name: module for name, module in self.blocks[index].named_modules()}
        return in_stages(modules, self.linears(index))

    def stored_name(self, parameter: str) -> str:
        """The checkpoint's name of the tensor that holds a parameter of the model."""
        return self._stored[parameter].name

    def stored_dtype(self, linear: str) -> torch.dtype:
        """The dtype that a matrix has in the checkpoint."""
        return self.checkpoint.dtype(self.stored_name(f"{linear}.weight"))

    def store(self, parameter: str, value: Tensor, tensors: dict[str, Tensor]) -> None:
        """Enter a parameter's new value into `tensors` (stored name -> tensor) as the checkpoint lays it out."""
        place = self._stored[parameter]
        if place.expert is None:
            tensors[place.name] = value.contiguous()
            return
        if place.name not in tensors:
            tensors[place.name] = self.checkpoint.load(place.name)
        place.of(tensors[place.name]).copy_(value)

    def load_block(self, index: int, replaced: dict[str, Tensor] | None = None) -> nn.Module:
        """Bring a block onto the device.

        Args:
            replaced: stored name -> tensor that takes the place of the checkpoint's.
        """
        replaced = replaced or {}
        block = self.blocks[index]
        prefix = f"{self.block_prefix}.{index}."
        state = {}
        for stored, members in by_stored_tensor(self._stored, prefix):
            tensor = replaced[stored] if stored in replaced else self.checkpoint.load(stored)
            placed = self._placed(tensor)
            for name, place in members:
                state[name.removeprefix(prefix)] = place.of(placed)
        missing, unexpected = block.load_state_dict(state, strict=False, assign=True)
        if missing or unexpected:
            raise InputError(
                f"block {index} of {self.checkpoint.directory} does not fit its config.json: "
                f"missing {missing}, unexpected {unexpected}; use the files and config of one model"
            )
        return block.requires_grad_(False)

    def drop_block(self, index: int) -> None:
        """Give the block's memory back."""
        self.blocks[index].to("meta")

    def _placed(self, stored: Tensor) -> Tensor:
        # Integer buffers (position tables) keep their type.
        return stored.to(self.device, self.dtype if stored.is_floating_point() else None)

    @torch.no_grad()
    def enter(self, tokens: Tensor) -> Tensor:
        """Hidden states that enter block 0: [batch, tokens, width], for `tokens` [batch, tokens] int64."""
        self._load_outside()
        reached: list[Tensor] = []

        def stop(hidden: Tensor, *args: Any, **kwargs: Any) -> None:
            reached.append(hidden)
            raise _Reached

        first = self.blocks[0]
        first.forward = stop
        try:
            self.model.base_model(input_ids=tokens.to(self.device), use_cache=False)
        except _Reached:
            pass
        finally:
            del first.forward
        return reached[0]

    @torch.no_grad()
    def calls(self, tokens: Tensor) -> list[BlockCall]:
        """How the model calls each block for a batch of this shape (masks, positions, rotary tables differ by block).

        Block 0 runs once for it, to see whether this architecture's blocks return a tensor or a tuple.
        """
        shape = tuple(tokens.shape)
        if shape not in self._calls:
            absent = next(self.blocks[0].parameters()).is_meta
            if absent:
                self.load_block(0)
            self._calls[shape] = self._record_calls(tokens)
            if absent:
                self.drop_block(0)
        return self._calls[shape]

    def _record_calls(self, tokens: Tensor) -> list[BlockCall]:
        self._load_outside()
        recorded: list[BlockCall] = []
        returned: list[Any] = []
        original = self.blocks[0].forward

        def record(hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            recorded.append(BlockCall(args, kwargs))
            if not returned:
                returned.append(original(hidden, *args, **kwargs))
            return returned[0]

        for block in self.blocks:
            block.forward = record
        try:
            self.model.base_model(input_ids=tokens.to(self.device), use_cache=False)
        finally:
            for block in self.blocks:
                del block.forward
        return recorded

    def _load_outside(self) -> None:
        """Load what runs outside the blocks, but for the output head, which calibration never reaches."""
        if self._outside_loaded:
            return
        for name in self._outside:
            value = self._placed(self.checkpoint.load(self.stored_name(name)))
            self._set_parameter(name, value)
        self._outside_loaded = True

    def drop_outside(self) -> None:
        """Give the memory of what runs outside the blocks back; it is loaded again where it is needed."""
        for name in self._outside:
            self._set_parameter(name, self.model.get_parameter(name).to("meta"))
        self._outside_loaded = False

    def _set_parameter(self, name: str, value: Tensor) -> None:
        owner, _, attribute = name.rpartition(".")
        setattr(self.model.get_submodule(owner), attribute, nn.Parameter(value, requires_grad=False))


def matrix(module: nn.Module) -> Tensor:
    """The weight as [out, in]: a transposed view for GPT-2's Conv1D."""
    weight = cast("Tensor", module.weight)
    return weight.T if isinstance(module, Conv1D) else weight


def set_matrix(module: nn.Module, weight: Tensor) -> None:
    """Replace the weight by `weight` ([out, in]), keeping the module's own layout."""
    laid_out = weight.T.contiguous() if isinstance(module, Conv1D) else weight
    module.weight = nn.Parameter(laid_out, requires_grad=False)


def _head_only(model: PreTrainedModel) -> set[int]:
    """Ids of the output head's parameters, where it shares none with the embedding: calibration never runs it."""
    head = model.get_output_embeddings()
    parameters = {id(parameter) for parameter in head.parameters()} if head is not None else set()
    return parameters - {id(parameter) for parameter in model.get_input_embeddings().parameters()}


def _complete(places: dict[str, Place], model: PreTrainedModel, checkpoint: Checkpoint) -> dict[str, Place]:
    """The places of the model's parameters and persistent buffers; InputError where one that runs has none."""
    head = _head_only(model)
    needed = {name for name, parameter in model.named_parameters() if id(parameter) not in head}
    missing = sorted(needed - places.keys())
    if missing:
        raise InputError(
            f"{checkpoint.directory} lacks {len(missing)} tensors of its config.json, the first {missing[0]!r}; "
            "use the files and config of one model"
        )
    return {name: places[name] for name in model.state_dict() if name in places}
