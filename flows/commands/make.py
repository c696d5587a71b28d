"""Commands that make variants, comparisons, searches, exports and DVC stages; heavy packages are imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import JsonOption, RecipeArgument, SetOption, app, as_json, print_result, say


@app.command(epilog="Example: `espalier sweep --sparsities 0.5,0.6,0.7 --patterns 2:4 --bits none,4`")
def sweep(
    methods: Annotated[
        list[str] | None, typer.Option(help="Variants to vary, e.g. wanda-50,sparsegpt-50; default: all.")
    ] = None,
    sparsities: Annotated[list[str] | None, typer.Option(help="Removed fractions, e.g. 0.5,0.6.")] = None,
    patterns: Annotated[
        list[str] | None, typer.Option(help="More patterns: 2:4 (keeps 2 of every 4), a name, or a mapping.")
    ] = None,
    bits: Annotated[list[str] | None, typer.Option(help="Bits of the quantizer, e.g. none,4.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Make methods x sparsities x patterns x bits over shared statistics; table and report with Pareto fronts."""
    from flows.console.sweep_table import print_sweep, require_all
    from flows.launch import run_flow
    from flows.sweep_variants import axes_of

    outcome = run_flow("sweep", json_, set_, axes=axes_of(methods, sparsities, patterns, bits))
    print_result(outcome, json_, print_sweep)
    require_all(outcome)


@app.command(epilog="Example: `espalier export sparsegpt-50 --format sparse --option encoding=bitmask`")
def export(
    variant: Annotated[str, typer.Argument(help="A variant of params.yaml, or dense.")],
    format_: Annotated[str, typer.Option("--format", help="File format, e.g. safetensors, sparse, gguf, onnx.")],
    option: Annotated[
        list[str] | None, typer.Option(help="An option of the format, key=value; may be repeated.")
    ] = None,
    to: Annotated[Path | None, typer.Option(help="Output directory; default: below artifacts/exports.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a variant for serving, with a model card; read it back, compare, evaluate and time it."""
    from flows.console.tables import print_export
    from flows.launch import run_flow
    from flows.plan.fit import require_expressible
    from pruning_core.export import format_spec

    spec = format_spec(format_, option or [])
    require_expressible(variant, spec, set_)
    record = run_flow("export", json_, set_, variant=variant, format=spec, to=str(to) if to else None)
    print_result(record, json_, print_export)


@app.command(epilog="Example: `espalier serve`, or once and at once: `espalier serve --now --json`")
def serve(
    now: Annotated[bool, typer.Option("--now", help="Run once, print the decision, and exit.")] = False,
    every: Annotated[float | None, typer.Option(help="Seconds between runs, instead of schedule.cron.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Compress, judge and register new checkpoints, on the cron of `schedule` in params.yaml."""
    from flows.actions.serve import print_decision
    from flows.actions.serve import serve as serve_until_stopped
    from flows.launch import run_flow
    from pruning_core.errors import InputError

    if not now:
        if json_:
            raise InputError("--json prints one decision: give it together with --now")
        serve_until_stopped(set_, every, say)
        return
    if every is not None:
        raise InputError("--now runs once, and --every again and again; give one of them")
    outcome = run_flow("scheduled", json_, set_)
    print_result(outcome, json_, lambda outcome: print_decision(outcome, say))


@app.command(epilog="Example: `espalier compress sparsegpt-50 --set variants.sparsegpt-50.sparsity=0.6`")
def compress(variant: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Compress, evaluate and track one variant."""
    from flows.console.tables import print_comparison
    from flows.launch import run_flow

    records = run_flow("compress", json_, set_, variant=variant)
    if json_:
        as_json(records[-1])
        return
    print_comparison(records)
    say(f"\nmodel      {records[-1].model.path}")


@app.command(epilog="Example: `espalier compare --json`")
def compare(set_: SetOption = None, json_: JsonOption = False) -> None:
    """Compress every variant, and compare all of them with the dense model in a table and an HTML report."""
    from flows.console.tables import print_comparison
    from flows.launch import report_path, run_flow

    records = run_flow("compare", json_, set_)
    if json_:
        as_json({"records": records, "report": str(report_path())})
        return
    print_comparison(records)
    say(f"\nreport     {report_path()}")
    say("browse     espalier up   starts the MLflow and Prefect UIs on 127.0.0.1; espalier down stops them")


@app.command(epilog="Example: `espalier search sparsegpt-50 --set variants.sparsegpt-50.sparsity=0.7`")
def search(variant: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Find how much of each matrix to remove; a stopped search resumes where it was."""
    from flows.actions.search import print_search, search_variant

    facts = search_variant(variant, set_, json_)
    print_result(facts, json_, print_search)


@app.command(epilog="Example: `espalier step prune wanda-50` (what dvc.yaml runs)")
def step(
    name: Annotated[str, typer.Argument(help="tokens, prune or evaluate.")],
    variant: Annotated[str | None, typer.Argument(help="A variant, if the step needs one.")] = None,
    set_: SetOption = None,
) -> None:
    """Run one DVC stage without Prefect, and put its output into artifacts/."""
    from flows.actions.dvc_stage import run_stage

    say("\n".join(run_stage(name, variant, set_)))
