"""Commands that inspect and make no variant. Heavy packages are imported inside."""

from pathlib import Path
from typing import Annotated

import typer

from flows.commands.options import JsonOption, RecipeArgument, SetOption, VariantArgument, app, print_result, say


@app.command(epilog="Example: `espalier evaluate artifacts/models/wanda-50`")
def evaluate(
    path: Annotated[Path, typer.Argument(help="Any Hugging Face model directory, or an export.")],
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Measure perplexity, size and speed of a model directory, by the protocol in params.yaml."""
    from flows.actions.inspect import evaluate_directory
    from flows.console.tables import print_facts

    facts = evaluate_directory(path, set_, json_)
    print_result(facts, json_, print_facts)


@app.command(epilog="Example: `espalier explain sparsegpt-50`")
def explain(variant: VariantArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Show for each step of a variant whether it is cached, and if not, which input changed. Computes nothing."""
    from flows.actions.inspect import explain_variant
    from flows.console.tables import print_explanation

    steps = explain_variant(variant, set_)
    print_result(steps, json_, lambda steps: print_explanation(variant, steps))


@app.command(epilog="Example: `espalier lineage sparsegpt-50 --json`")
def lineage(variant: VariantArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Show the chain from source checkpoint, text, code and libraries to a variant, with digests."""
    from flows.actions.inspect import lineage_of
    from flows.console.tables import print_lineage

    facts = lineage_of(variant, set_)
    print_result(facts, json_, print_lineage)


@app.command(epilog="Example: `espalier groups --families mlp`")
def groups(
    families: Annotated[list[str] | None, typer.Option(help="mlp, attention or query; may be repeated.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Show the channels and heads that structured pruning removes together, from the model's configuration alone."""
    from flows.actions.inspect import groups_of_model

    tables = groups_of_model(families, set_)
    print_result(tables["sites"], json_, lambda _: say(tables["table"]))


@app.command(epilog="Example: `espalier plan sparsegpt-50 --set calibration.sequences=128`")
def plan(
    variant: RecipeArgument,
    set_: SetOption = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Floating point operations per second in matrix products, e.g. 5e10; default: measured."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Predict memory, disk, work and time of a variant from the configuration alone; exit code 2 if it cannot fit."""
    from flows.plan.fit import plan_variant
    from flows.plan.table import print_plan
    from pruning_core.errors import InputError

    estimate = plan_variant(variant, set_, rate)
    print_result(estimate, json_, print_plan)
    if estimate["refused"]:
        raise InputError(estimate["refused"])
