"""Plain safetensors: removed weights are stored as exact zeros, and every loader reads them."""

import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from pruning_core.checkpoint.checkpoint import Checkpoint
from pruning_core.checkpoint.file_names import MASKS
from pruning_core.checkpoint.shard_files import SHARD_BYTES
from pruning_core.checkpoint.sharded_writer import ShardedWriter
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.checkpoint.streamed_writer import write_streamed
from pruning_core.export import FORMATS
from pruning_core.export.packing.quantization_config import quantization_config
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress


@FORMATS.register("safetensors")
class PlainSafetensors:
    """The checkpoint's own layout and dtype, and the masks beside it.

    config.json says nothing of sparsity: loaders that knew how to read a `sparsity_config` now refuse it.

    max_shard_bytes: of a weights file, which is in memory whole while it is filled.
    """

    max_shard_bytes: Annotated[int, Field(ge=1)] = SHARD_BYTES
    exact = True
    native = True
    library = "transformers"
    shell = False

    def foresee(self, model: PreviewedModel) -> None:
        pass

    def check(self, model: StoredModel) -> None:
        pass

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        writer = ShardedWriter(out, self.max_shard_bytes, resume=True)
        write_streamed(model.names(), writer, lambda name: (model.load(name),), progress)
        if (model.directory / MASKS).is_file():
            shutil.copyfile(model.directory / MASKS, out / MASKS)
        return {}

    def recognises(self, directory: Path) -> bool:
        return any(directory.glob("model*.safetensors")) and not quantization_config(directory)

    def read(self, directory: Path) -> Checkpoint:
        return Checkpoint(directory)

    def command(self) -> str:
        return 'from transformers import AutoModelForCausalLM\nmodel = AutoModelForCausalLM.from_pretrained("{path}")'
