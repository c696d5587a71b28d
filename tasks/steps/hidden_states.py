"""The hidden states between blocks: kept in memory, checkpointed in the background, recomputed when lost.

They are no artifacts. Which states enter a block follows from the source model, the calibration tokens and the blocks
before it, so that any process can get them back: from this process's memory, from the last checkpoint, or by running
the blocks once more. All three give the same bits.
"""

import contextlib
import hashlib
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from pruning_core.calibration.collect import propagate
from pruning_core.calibration.hidden_states import HiddenStates
from pruning_core.calibration.shards import WHOLE, Shards
from pruning_core.checkpoint.durable_files import file_sha256, flush_one, replace_bytes
from pruning_core.checkpoint.model_files import read_config
from pruning_core.checkpoint.safetensors_format import write_file
from pruning_core.model.decoder import Decoder
from pruning_core.settings.compute import Running
from tasks.engine.step import Context
from tasks.parallel.process_group import shards_of
from tasks.steps.running import Forwards
from tasks.store.artifact import Artifact

CHECKPOINT_SECONDS = 10.0
"""Time between two checkpoints of hidden states: a kill costs at most this much work plus one block."""

CPU = Running()
"""How models run where nothing else is said."""

DIGEST = ".sha256"
"""Ending of the file beside a checkpoint that says what was written."""

DENSE = "dense"
"""Stands for a block that was passed uncompressed."""


@dataclass(frozen=True)
class Chain:
    """A run of calibration tokens through the first blocks of a model.

    Args:
        source: the dense model.
        tokens: calibration tokens.
        batch: sequences per forward.
        blocks: the compressed blocks passed; None in the place of a dense one.
        trust_remote_code: as in params.yaml.
        running: where and in what precision the model runs.
        mapped: whether states are kept in a memory-mapped file; the same bits either way.
        shards: which of the calibration windows this process runs.
    """

    source: Artifact
    tokens: Artifact
    batch: int
    blocks: tuple[Artifact | None, ...] = ()
    trust_remote_code: bool = False
    running: Running = CPU
    mapped: bool = False
    shards: Shards = WHOLE

    def windows(self) -> Tensor:
        """[sequences, tokens] int64: what this process runs of the calibration tokens."""
        return self.shards.own(load_tokens(self.tokens), self.batch)

    def decoder(self) -> Decoder:
        """The model, ready to run."""
        return decoder_of(self.source, self.trust_remote_code, self.running)

    def key(self, count: int, following: str = "") -> str:
        """Names the states after `count` blocks and, where given, one more of that key: equal keys, equal bits."""
        passed = [block.key if block else DENSE for block in self.blocks[:count]]
        forwards = [str(self.batch), self.running.device, self.running.dtype]
        parts = [self.source.digest, self.tokens.digest, *forwards, *passed]
        if self.shards.rank is not None:
            parts.append(f"shard {self.shards.rank} of {self.shards.count}")
        if following:
            parts.append(following)
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def chain_of(params: Forwards, inputs: dict[str, Artifact], blocks: tuple[Artifact | None, ...]) -> Chain:
    """The chain that a step's params and inputs (source, tokens) mean, through `blocks`."""
    mapped, shards = params.states == "mapped", shards_of(params.shards or 1)
    source, tokens = inputs["source"], inputs["tokens"]
    return Chain(source, tokens, params.batch, blocks, params.trust_remote_code, params.running, mapped, shards)


@dataclass
class _Live:
    """The state of this process: one decoder, and the hidden states at the end of one chain."""

    lock: threading.RLock = field(default_factory=threading.RLock)
    decoder_key: str = ""
    decoder: Decoder | None = None
    states_key: str = ""
    states: HiddenStates | None = None
    written_at: float = field(default_factory=time.monotonic)
    writer: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "checkpoint"))
    pending: Future | None = None


_LIVE = _Live()
exclusive = _LIVE.lock
"""Held while a block is loaded: threads that compress several variants share one decoder."""


def decoder_of(source: Artifact, trust_remote_code: bool = False, running: Running = CPU) -> Decoder:
    """The source model with its blocks on disk; the last one asked for stays in memory."""
    key = f"{source.digest} {source.path} {running}"
    if _LIVE.decoder_key != key or _LIVE.decoder is None:
        config = read_config(source.path, trust_remote_code=trust_remote_code)
        where = {"device": running.torch_device, "dtype": running.torch_dtype}
        _LIVE.decoder = None
        _LIVE.decoder = Decoder(source.path, config, trust_remote_code, **where)
        _LIVE.decoder_key = key
    return _LIVE.decoder


def take_states(context: Context, chain: Chain) -> HiddenStates:
    """The states after all blocks of `chain`; the caller may change them."""
    if _LIVE.states is not None and _LIVE.states_key == chain.key(len(chain.blocks)):
        states, _LIVE.states = _LIVE.states, None
        return states
    # Whatever else is held would only take memory.
    _LIVE.states = None
    decoder = chain.decoder()
    count, states = _nearest_checkpoint(context, chain)
    if states is None:
        folder = context.store.root / "scratch" if chain.mapped else None
        states = HiddenStates.at_entry(decoder, chain.windows(), chain.batch, folder)
    for index in range(count, len(chain.blocks)):
        decoder.load_block(index, replaced_weights(chain.blocks[index]))
        propagate(decoder, index, states)
        decoder.drop_block(index)
    return states


def keep_states(context: Context, chain: Chain, following: str, states: HiddenStates) -> None:
    """Hold the states after `chain` and the block of key `following` for the block after it.

    A checkpoint is written when one is due; after the last block nothing is kept, and the checkpoints go.
    """
    passed = len(chain.blocks)
    if passed + 1 == len(chain.decoder()):
        _forget(context, chain)
        return
    key = chain.key(passed, following)
    _LIVE.states, _LIVE.states_key = states, key
    due = time.monotonic() - _LIVE.written_at >= CHECKPOINT_SECONDS
    if due and (_LIVE.pending is None or _LIVE.pending.done()):
        _finish_writing()
        _LIVE.written_at = time.monotonic()
        older = [_name(chain.key(count)) for count in range(passed + 1)]
        _LIVE.pending = _LIVE.writer.submit(_write, context, _checkpoint(context, key), list(states.batches), older)
        if states.mapped is not None:
            # The next block overwrites a mapped file in place.
            _finish_writing()


def load_tokens(tokens: Artifact, name: str = "tokens") -> Tensor:
    """[windows, length] int64 of a tokens artifact."""
    return load_file(tokens.path / "tokens.safetensors")[name]


def replaced_weights(block: Artifact | None) -> dict[str, Tensor] | None:
    """The compressed matrices of a block artifact, by stored name."""
    return load_file(block.path / "weights.safetensors") if block else None


def _nearest_checkpoint(context: Context, chain: Chain) -> tuple[int, HiddenStates | None]:
    for count in range(len(chain.blocks), -1, -1):
        stored = _read(context, _checkpoint(context, chain.key(count)))
        if stored is not None:
            folder = context.store.root / "scratch" if chain.mapped else None
            device = chain.running.torch_device
            batches = (batch.to(device) for _, batch in sorted(stored.items()))
            return count, HiddenStates.of(batches, chain.windows(), chain.batch, folder)
    return 0, None


def _forget(context: Context, chain: Chain) -> None:
    """Drop the checkpoints on the way of a chain that is complete."""
    _LIVE.states = None
    _finish_writing()
    for count in range(len(chain.blocks) + 1):
        context.store.discard_scratch(_name(chain.key(count)))


def _finish_writing() -> None:
    if _LIVE.pending is not None:
        _LIVE.pending.result()
        _LIVE.pending = None


def _name(key: str) -> str:
    return f"states-{key}"


def _checkpoint(context: Context, key: str) -> Path:
    return context.store.root / "scratch" / _name(key) / "states.safetensors"


def _read(context: Context, path: Path) -> dict[str, Tensor] | None:
    """The batches of a checkpoint; None where there is none, or one that is not what was written."""
    # Another process that is further on may take it away meanwhile.
    with contextlib.suppress(FileNotFoundError):
        if file_sha256(path) == path.with_suffix(DIGEST).read_text():
            return load_file(path)
        context.store.events.record("altered", key=path.parent.name, detail="the checkpoint was changed; not used")
    return None


def _write(context: Context, path: Path, batches: list[Tensor], older: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    # As they are: put together they would take their memory twice.
    write_file(partial, {f"{position:09d}": batch.cpu() for position, batch in enumerate(batches)})
    flush_one(partial)
    replace_bytes(path.with_suffix(DIGEST), file_sha256(partial).encode())
    # Complete or absent: a reader never meets half a file. Only then are the ones before it of no more use.
    partial.rename(path)
    for name in older:
        context.store.discard_scratch(name)
