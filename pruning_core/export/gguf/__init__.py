"""A GGUF file, which llama.cpp runs: the same zeros, packed as blocks of 32 weights or as plain numbers."""

from pathlib import Path
from typing import Any, Literal

from pruning_core.checkpoint.appended_file import AppendedFile
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.errors import InputError
from pruning_core.export import FORMATS
from pruning_core.export.gguf.architecture import ROPE_FREQUENCIES, check_architecture, gguf_name, rope_factors
from pruning_core.export.gguf.encoder import Encoder
from pruning_core.export.gguf.head import head_of, padded
from pruning_core.export.gguf.tokenizer import tokenizer_keys
from pruning_core.export.gguf.weights import GgufWeights
from pruning_core.export.packing.single_file import origin_of, summed_facts
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress

FILE = "model.gguf"


@FORMATS.register("gguf")
class Gguf:
    """One file with weights, architecture and tokenizer.

    type: of the matrices of the blocks. Of a quantized variant q4_0, q5_0 and q8_0 take the integers as they are, where
        groups are multiples of 32 columns and the integers fit; all else is rounded by the gguf library. Embeddings
        and head stay float16 (float32 and bfloat16 of those types), vectors float32. The K-quants (q4_k and so on)
        cannot be written, since the library only reads them.
    """

    type: Literal["f32", "f16", "bf16", "q8_0", "q5_0", "q4_0", "q5_1", "q4_1"] = "f16"

    exact = False
    native = False
    library = "llama-cpp-python"
    shell = False

    def foresee(self, model: PreviewedModel) -> None:
        self.check(model)

    def check(self, model: StoredModel) -> None:
        config = model.architecture
        check_architecture(config)
        tokenizer_keys(model.directory, config)
        for name in model.names():
            gguf_name(name)

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        self.check(model)
        config = model.architecture
        encoder, factors, names = Encoder(model, config, self.type), rope_factors(config), model.names()
        head = head_of(encoder, tokenizer_keys(model.directory, config), factors)
        parts = names if factors is None else [*names, ROPE_FREQUENCIES]
        file = AppendedFile(out / FILE, head, parts, origin_of(model))
        try:
            for done, name in enumerate(names, start=1):
                if name not in file.notes:
                    data, note = encoder.encoded(name)
                    file.add(name, padded(data).data, note)
                progress(done, len(names))
        except InputError:
            file.discard()
            raise
        if factors is not None and ROPE_FREQUENCIES not in file.notes:
            file.add(ROPE_FREQUENCIES, padded(factors).data)
        file.publish()
        return {"type": self.type, **summed_facts(file.notes[name] for name in names)}

    def recognises(self, directory: Path) -> bool:
        return any(directory.glob("*.gguf"))

    def read(self, directory: Path) -> GgufWeights:
        return GgufWeights(directory)

    def command(self) -> str:
        return f'import llama_cpp\nmodel = llama_cpp.Llama("{{path}}/{FILE}")'
