"""A tokenizer.json in the terms of llama.cpp: byte-level BPE with merges, or the pieces of SentencePiece."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from transformers import PretrainedConfig

from pruning_core.errors import InputError
from pruning_core.export.packing.stored_grids import DENSE_FORMATS

LETTERS = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + LETTERS + "{1,3}" + REST: "llama-bpe",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|" + LETTERS + REST: "qwen2",
}
"""How a text is cut before merging -> what llama.cpp calls that."""
SPACE = "\u2581"
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)


def tokenizer_keys(directory: Path, config: PretrainedConfig) -> dict[str, Any]:
    """Key without its prefix `tokenizer.` -> string, integer, bool or list.

    Raises:
        InputError: no tokenizer.json, or one that llama.cpp has no way to express.
    """
    path = directory / "tokenizer.json"
    if not path.is_file():
        raise _refused("it has no tokenizer.json")
    settings = json.loads(path.read_text(encoding="utf-8"))
    if settings["model"]["type"] != "BPE":
        raise _refused(f"its tokenizer is of the kind {settings['model']['type']}, not BPE")
    if settings["model"].get("byte_fallback"):
        kind = {"ggml.model": "llama", "ggml.add_space_prefix": _prepends_space(settings)}
        kind["ggml.scores"] = _scores(settings, config.vocab_size)
    else:
        kind = {"ggml.model": "gpt2", "ggml.pre": _split(settings), "ggml.merges": _merges(settings)}
    tokens, types = _tokens(settings, config.vocab_size)
    keys = {**kind, "ggml.tokens": tokens, "ggml.token_type": types}
    return keys | _special(Tokenizer.from_file(str(path)), config) | _template(directory)


def _refused(fault: str) -> InputError:
    return InputError(f"--format gguf cannot express the tokenizer of this model: {fault}; use {DENSE_FORMATS}")


def _tokens(settings: dict[str, Any], size: int) -> tuple[list[str], list[int]]:
    """One entry for each row of the embedding."""
    tokens: dict[int, tuple[str, int]] = {}
    unknown = settings["model"].get("unk_token")
    for token, index in settings["model"]["vocab"].items():
        is_byte = settings["model"].get("byte_fallback") and len(token) == 6 and token.startswith("<0x")
        tokens[index] = (token, BYTE if is_byte else NORMAL)
    for added in settings["added_tokens"]:
        tokens[added["id"]] = (added["content"], CONTROL if added["special"] else USER_DEFINED)
    if tokens and max(tokens) >= size:
        raise _refused(f"it has the token {max(tokens)}, and the model {size} embeddings")
    # An embedding may have more rows than there are tokens; every row needs a name of its own.
    entries = [tokens.get(index, (f"[PAD{index}]", UNUSED)) for index in range(size)]
    return [token for token, _ in entries], [UNKNOWN if token == unknown else kind for token, kind in entries]


def _pairs(settings: dict[str, Any]) -> list[tuple[str, str]]:
    return [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in settings["model"]["merges"]]


def _merges(settings: dict[str, Any]) -> list[str]:
    return [" ".join(pair) for pair in _pairs(settings)]


def _scores(settings: dict[str, Any], size: int) -> list[float]:
    """SentencePiece joins the pair with the highest score first, BPE the one with the earliest merge."""
    scores = [0.0] * size
    for rank, pair in reversed(list(enumerate(_pairs(settings)))):
        scores[settings["model"]["vocab"]["".join(pair)]] = -1.0 - rank
    return scores


def _prepends_space(settings: dict[str, Any]) -> bool:
    before, normalizer = settings.get("pre_tokenizer"), settings.get("normalizer")
    if before and before["type"] == "Metaspace" and not before.get("split", True) and not normalizer:
        return bool(before.get("prepend_scheme") != "never")
    parts = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    space = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    prefix = {"type": "Prepend", "prepend": SPACE}
    if before or parts not in ([prefix, space], [space]):
        raise _refused("its pieces are not cut at spaces as SentencePiece cuts them")
    return bool(parts[0] == prefix)


def _split(settings: dict[str, Any]) -> str:
    before = settings.get("pre_tokenizer") or {}
    steps = before.get("pretokenizers", [before])
    last = steps[-1]
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space"):
        raise _refused("it is no byte-level BPE without a space before the text")
    if len(steps) == 1 and last.get("use_regex"):
        return "gpt-2"
    pattern = steps[0].get("pattern", {}).get("Regex") if len(steps) == 2 else None
    if pattern not in SPLITS or steps[0].get("behavior") != "Isolated" or steps[0].get("invert"):
        raise _refused(f"it cuts a text in a way that is none of gpt-2, {', '.join(SPLITS.values())}")
    return SPLITS[pattern]


def _special(tokenizer: Tokenizer, config: PretrainedConfig) -> dict[str, Any]:
    bos, eos = (_first(getattr(config, f"{kind}_token_id", None)) for kind in ("bos", "eos"))
    plain, full = (tokenizer.encode("a", add_special_tokens=special).ids for special in (False, True))
    before, after = full[: full.index(plain[0])], full[full.index(plain[0]) + len(plain) :]
    if before not in ([], [bos]) or after not in ([], [eos]):
        raise _refused("it adds other special tokens than those for begin and end")
    keys = {"ggml.bos_token_id": bos, "ggml.eos_token_id": eos}
    keys["ggml.padding_token_id"] = _first(getattr(config, "pad_token_id", None))
    present = {key: value for key, value in keys.items() if value is not None}
    return present | {"ggml.add_bos_token": bool(before), "ggml.add_eos_token": bool(after)}


def _first(value: Any) -> int | None:
    first: int | None = value[0] if isinstance(value, list) else value
    return first


def _template(directory: Path) -> dict[str, str]:
    file, settings = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if file.is_file():
        return {"chat_template": file.read_text(encoding="utf-8")}
    template = json.loads(settings.read_text(encoding="utf-8")).get("chat_template") if settings.is_file() else None
    return {"chat_template": template} if isinstance(template, str) else {}
