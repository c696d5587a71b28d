"""An ONNX graph with its cache, which ONNX Runtime runs: float32, or integers that it multiplies with."""

import hashlib
from pathlib import Path
from typing import Any, Literal

from pruning_core.checkpoint.appended_file import AppendedFile
from pruning_core.checkpoint.stored_model import StoredModel
from pruning_core.export import FORMATS
from pruning_core.export.onnx.assembly import assembled
from pruning_core.export.onnx.encoder import OnnxEncoder
from pruning_core.export.onnx.graph import check_architecture
from pruning_core.export.onnx.packages import DATA, FILE, check_installed
from pruning_core.export.onnx.weights import OnnxWeights
from pruning_core.export.packing.single_file import origin_of, summed_facts
from pruning_core.export.stored.previewed_model import PreviewedModel
from pruning_core.progress import Progress

Type = Literal["float32", "int8", "int4"]


@FORMATS.register("onnx")
class Onnx:
    """A graph, and one file with all weights beside it.

    type: of all matrices that inputs are multiplied with. int8 and int4 take the integers of a quantized variant as
        they are, where these fit and blocks of 16 columns or more have one grid; other matrices are rounded with a
        scale per output and 32 inputs. Absent: the variant's integers as they are, and float32 where there are none.
    head: of the matrix that gives the logits; absent: `type`.

    All else is float32, but for tables that rows are looked up of: these keep the 16 bits of the checkpoint. A head
    that is tied to the embedding is written a second time.
    """

    type: Type | None = None
    head: Type | None = None

    native = False
    library = "onnxruntime"
    shell = False

    @property
    def exact(self) -> bool:
        return not {self.type, self.head} & {"int8", "int4"}

    def foresee(self, model: PreviewedModel) -> None:
        self.check(model)

    def check(self, model: StoredModel) -> None:
        check_architecture(model.architecture)
        check_installed("--format onnx")

    def write(self, model: StoredModel, out: Path, progress: Progress) -> dict[str, Any]:
        self.check(model)
        encoder = OnnxEncoder(model, self.type, self.head or self.type)
        proto, layouts = assembled(model, encoder)
        graph = proto.SerializeToString(deterministic=True)
        _place(out / FILE, graph)
        origin = hashlib.sha256(graph + origin_of(model).encode()).hexdigest()
        file = AppendedFile(out / DATA, b"", [layout.name for layout in layouts], origin)
        for done, layout in enumerate(layouts, start=1):
            if layout.name not in file.notes:
                file.add(layout.name, *encoder.encoded(layout))
            progress(done, len(layouts))
        file.publish()
        return {"type": self.type, "head": self.head, **summed_facts(file.notes[layout.name] for layout in layouts)}

    def recognises(self, directory: Path) -> bool:
        # Directories of safetensors may hold a graph too, which somebody else made.
        return (directory / FILE).is_file() and not any(directory.glob("model*.safetensors"))

    def read(self, directory: Path) -> OnnxWeights:
        return OnnxWeights(directory)

    def command(self) -> str:
        return f'import onnxruntime\nsession = onnxruntime.InferenceSession("{{path}}/{FILE}")'


def _place(path: Path, content: bytes) -> None:
    """Write a file that has its name only when it is whole."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
