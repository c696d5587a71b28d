"""Commands over many variants and their lineage; `flows.cli` takes them in. Heavy packages are imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from flows.options import JsonOption, SetOption, as_json, say

commands = typer.Typer(rich_markup_mode="markdown")


@commands.command(epilog="Example: `espalier sweep --sparsities 0.5,0.6,0.7 --patterns 2:4 --bits none,4`")
def sweep(
    methods: Annotated[
        list[str] | None, typer.Option(help="Variants to vary, e.g. wanda-50,sparsegpt-50; default: all.")
    ] = None,
    sparsities: Annotated[list[str] | None, typer.Option(help="Removed fractions, e.g. 0.5,0.6.")] = None,
    patterns: Annotated[
        list[str] | None, typer.Option(help="Further patterns: 2:4 (2 of every 4 are kept), a name, or a mapping.")
    ] = None,
    bits: Annotated[list[str] | None, typer.Option(help="Bits of the quantizer, e.g. none,4.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Methods x sparsities x patterns x bits over shared statistics; table and report with the Pareto fronts."""
    from flows.expanding import axes_of
    from flows.running import run_flow
    from flows.sweep_table import print_sweep, require_all

    found = run_flow("sweep", json_, set_, axes=axes_of(methods, sparsities, patterns, bits))
    if json_:
        as_json(found)
    else:
        print_sweep(found)
    require_all(found)


@commands.command(epilog="Example: `espalier export sparsegpt-50 --format sparse --option encoding=bitmask`")
def export(
    variant: Annotated[str, typer.Argument(help="A variant of params.yaml, or dense.")],
    format_: Annotated[str, typer.Option("--format", help="What serves it, e.g. safetensors, sparse, gguf, onnx.")],
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the format, key=value; may be repeated.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Directory to write; default: below artifacts/exports.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a variant as people serve it, with a model card; read it again, compare, evaluate and time it."""
    from flows.export_table import print_export
    from flows.foreseeing import require_expressible
    from flows.running import run_flow
    from pruning_core.export import format_spec

    spec = format_spec(format_, option or [])
    require_expressible(variant, spec, set_)
    found = run_flow("export", json_, set_, variant=variant, format=spec, to=str(to) if to else None)
    if json_:
        as_json(found)
    else:
        print_export(found)


@commands.command(epilog="Example: `espalier serve`, or once and at once: `espalier serve --now --json`")
def serve(
    now: Annotated[bool, typer.Option("--now", help="Run once, print the decision, and end.")] = False,
    every: Annotated[float | None, typer.Option(help="Seconds from run to run, instead of schedule.cron.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Make, judge and register what a new checkpoint gives, on the cron of `schedule` in params.yaml."""
    from flows.running import run_flow
    from flows.serving import print_decision
    from flows.serving import serve as serve_until_stopped
    from pruning_core.errors import InputError

    if not now:
        if json_:
            raise InputError("--json prints one decision: give it together with --now")
        serve_until_stopped(set_, every, say)
        return
    if every is not None:
        raise InputError("--now runs once, and --every again and again; give one of them")
    found = run_flow("scheduled", json_, set_)
    if json_:
        as_json(found)
    else:
        print_decision(found, say)


@commands.command(epilog="Example: `espalier reproduce 3f9d2c1a`")
def reproduce(
    run_id: Annotated[str, typer.Argument(help="Of an MLflow run; its first digits suffice.")],
    from_cache: Annotated[
        bool, typer.Option("--from-cache", help="Take stored results, instead of computing everything anew.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make the variant of an MLflow run again, say what changed since, and compare digests; exit code 1 if others."""
    from flows.reproducing import print_reproduction, reproduce_run, require_identical

    found = reproduce_run(run_id, from_cache, json_)
    if json_:
        as_json(found)
    else:
        print_reproduction(found)
    require_identical(found)


@commands.command(epilog="Example: `espalier verify`")
def verify(json_: JsonOption = False) -> None:
    """Read every byte that is stored; what was altered is set aside and computed anew later; exit code 1 if any."""
    from flows.verifying import print_verification, require_intact, verify_store

    found = verify_store(json_)
    if json_:
        as_json(found)
    else:
        print_verification(found, say)
    require_intact(found)


@commands.command(epilog="Example: `espalier gc --dry-run`")
def gc(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go and why the rest stays.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    keep_statistics: Annotated[
        bool, typer.Option(help="Whether statistics and levels that kept variants were made from stay.")
    ] = True,
    older_than: Annotated[float, typer.Option(metavar="DAYS", help="Only what was not used for so long.")] = 0.0,
    json_: JsonOption = False,
) -> None:
    """Remove stored results that neither params.yaml nor DVC nor MLflow names, nor anything that these came from."""
    from flows.collecting import collect, print_collection, require_consent

    found = collect(keep_statistics, older_than, dry_run, yes, json_)
    if json_:
        as_json(found)
    else:
        print_collection(found)
    require_consent(found, dry_run)
