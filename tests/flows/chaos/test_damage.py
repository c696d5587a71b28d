"""A byte flipped, or a file cut, in every kind of stored result: found before use, and made again to equal bits."""

import random
import shutil
from pathlib import Path

from faults import SWEEP, Undisturbed, digests, manifests, sentences, shown

from tasks.store.canonical_json import write_json
from tasks.store.directories import Signatures, signature
from tasks.store.store import Store

WAYS = ("a byte flipped", "cut short")


def test_a_damaged_result_of_every_kind_is_found_set_aside_and_made_again(
    undisturbed: Undisturbed, start_warm, draw: random.Random, figures, tmp_path: Path
):
    found, spared = {}, {}
    for way in WAYS:
        root = shutil.copytree(undisturbed.root, tmp_path / way)
        damaged = _one_of_every_kind(root, draw, manifest_too=True)
        for key, file in damaged.values():
            _damage(root / ".espalier" / "objects" / key / file, way, draw)
        done = start_warm(root, *SWEEP).wait()
        assert done.code == 0, done.err
        events = [event for event in Store(root / ".espalier").events.of_all_processes() if event["event"] == "altered"]
        assert {event["key"] for event in events} == {key for key, _ in damaged.values()}
        assert digests(root) == undisturbed.digests
        # Content decides: what was made again to the same bits invalidates nothing that was made of it.
        again = {undisturbed.labels[key] for key, _ in damaged.values()}
        assert set(shown(done, "computed")) == again
        found[way], spared[way] = len(events), len(undisturbed.labels) - len(again)
    kinds = sorted(damaged)
    figures(
        "damage",
        f"{len(kinds)} kinds of results, each {' and each '.join(WAYS)}: {sum(found.values())} of "
        f"{len(WAYS) * len(kinds)} found by the next command, 0 digests differ",
        kinds=kinds,
        found=found,
        computed_again=len(kinds),
        spared=spared,
    )


def test_bits_that_change_beneath_the_file_system_are_found_by_verify(
    undisturbed: Undisturbed, start_warm, draw: random.Random, figures, tmp_path: Path
):
    root = shutil.copytree(undisturbed.root, tmp_path / "rotten")
    damaged = _one_of_every_kind(root, draw, manifest_too=False)
    remembered = Signatures(root / ".espalier" / "signatures")
    for key, file in damaged.values():
        folder = root / ".espalier" / "objects" / key
        _damage(folder / file, WAYS[0], draw)
        # As if no write had done it: what is remembered of sizes, times and inodes is what is there.
        signatures = remembered.of(key) | {"stat": signature(folder)}
        write_json(remembered.root / f"{key}.json", signatures)
        assert Store(root / ".espalier").check(key)[0], "the damage was to be one that no size or time tells"
    verified = start_warm(root, "verify").wait()
    assert verified.code == 1 and f"{len(damaged)} of" in sentences(verified)[-1]
    done = start_warm(root, *SWEEP).wait()
    assert done.code == 0 and digests(root) == undisturbed.digests
    figures(
        "rot",
        f"{len(damaged)} results changed with no size, time or inode changed: {len(damaged)} of "
        f"{len(damaged)} found by `espalier verify`; 0 digests differ after the next command",
        kinds=sorted(damaged),
    )


def _one_of_every_kind(root: Path, draw: random.Random, manifest_too: bool) -> dict[str, tuple[str, str]]:
    """Kind -> (key, file) of one stored result of each, its largest file or its manifest."""
    by_kind = {}
    for key, manifest in sorted(manifests(root).items()):
        largest = [max(manifest["sizes"], key=manifest["sizes"].get)] if manifest["sizes"] else []
        files = largest + ["manifest.json"] * manifest_too
        if not files:
            continue
        by_kind.setdefault(manifest["kind"], []).append((key, draw.choice(files)))
    assert len(by_kind) >= 5 + manifest_too
    return {kind: draw.choice(entries) for kind, entries in by_kind.items()}


def _damage(file: Path, way: str, draw: random.Random) -> None:
    content = bytearray(file.read_bytes())
    place = draw.randrange(len(content))
    file.chmod(0o644)
    if way == "cut short":
        content = content[:place]
    else:
        content[place] ^= 1 << draw.randrange(8)
    file.write_bytes(content)
