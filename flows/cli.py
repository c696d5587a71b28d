"""The command line. Heavy packages are imported inside the commands, so that --help answers at once."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from flows.commands import commands
from flows.options import JsonOption, RecipeArgument, SetOption, VariantArgument, as_json, say

app = typer.Typer(
    name="espalier",
    help="Compress language models as a workflow: cached, versioned, tracked.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
app.add_typer(commands)


@app.command(epilog="Example: `espalier compress sparsegpt-50 --set variants.sparsegpt-50.sparsity=0.6`")
def compress(variant: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Compress, evaluate and track one variant."""
    from flows.running import run_flow
    from flows.tables import print_comparison

    records = run_flow("compress", json_, set_, variant=variant)
    if json_:
        as_json(records[-1])
        return
    print_comparison(records)
    say(f"\nmodel      {records[-1]['model']['path']}")


@app.command(epilog="Example: `espalier compare --json`")
def compare(set_: SetOption = None, json_: JsonOption = False) -> None:
    """Compress every variant, and show all of them beside the dense model in a table and an HTML report."""
    from flows.running import report_path, run_flow
    from flows.tables import print_comparison

    records = run_flow("compare", json_, set_)
    if json_:
        as_json({"records": records, "report": str(report_path())})
        return
    print_comparison(records)
    say(f"\nreport     {report_path()}")
    say("browse     espalier up   starts the MLflow and Prefect UIs on 127.0.0.1; espalier down stops them")


@app.command(epilog="Example: `espalier evaluate artifacts/models/wanda-50`")
def evaluate(
    path: Annotated[Path, typer.Argument(help="Any Hugging Face model directory, ours or not.")],
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """Perplexity, size and speed of a model directory, by the protocol in params.yaml."""
    from flows.inspecting import evaluate_directory
    from flows.tables import print_facts

    facts = evaluate_directory(path, set_, json_)
    if json_:
        as_json(facts)
    else:
        print_facts(facts)


@app.command(epilog="Example: `espalier explain sparsegpt-50`")
def explain(variant: VariantArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Per step of a variant: cached or not, and if not, which input changed. Computes nothing."""
    from flows.inspecting import explain_variant
    from flows.tables import print_explanation

    steps = explain_variant(variant, set_)
    if json_:
        as_json(steps)
    else:
        print_explanation(variant, steps)


@app.command(epilog="Example: `espalier lineage sparsegpt-50 --json`")
def lineage(variant: VariantArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """The chain from source checkpoint, text, code and libraries to a variant, with digests."""
    from flows.inspecting import lineage_of
    from flows.tables import print_lineage

    found = lineage_of(variant, set_)
    if json_:
        as_json(found)
    else:
        print_lineage(found)


@app.command(epilog="Example: `espalier search sparsegpt-50 --set variants.sparsegpt-50.sparsity=0.7`")
def search(variant: RecipeArgument, set_: SetOption = None, json_: JsonOption = False) -> None:
    """Search how much of each matrix goes; a search that was stopped goes on where it was."""
    from flows.searching import print_search, search_variant

    found = search_variant(variant, set_, json_)
    if json_:
        as_json(found)
    else:
        print_search(found)


@app.command(epilog="Example: `espalier groups --families mlp`")
def groups(
    families: Annotated[list[str] | None, typer.Option(help="mlp, attention or query; may be repeated.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
) -> None:
    """The channels and heads of the model that structured pruning removes together, from its configuration alone."""
    from flows.grouping import groups_of_model

    found = groups_of_model(families, set_)
    if json_:
        as_json(found["sites"])
    else:
        say(found["table"])


@app.command(epilog="Example: `espalier plan sparsegpt-50 --set calibration.sequences=128`")
def plan(
    variant: RecipeArgument,
    set_: SetOption = None,
    rate: Annotated[
        float | None,
        typer.Option(help="Floating point operations per second of matrix products, e.g. 5e10; default: measured."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Memory, disk, work and time of a variant, from the configuration alone; exit code 2 where it cannot fit."""
    from flows.plan_table import print_plan
    from flows.planning import plan_variant
    from pruning_core.errors import InputError

    found = plan_variant(variant, set_, rate)
    if json_:
        as_json(found)
    else:
        print_plan(found)
    if found["refused"]:
        raise InputError(found["refused"])


@app.command(epilog="Example: `espalier step prune wanda-50` (what dvc.yaml runs)")
def step(
    name: Annotated[str, typer.Argument(help="tokens, prune or evaluate.")],
    variant: Annotated[str | None, typer.Argument(help="A variant, where the step needs one.")] = None,
    set_: SetOption = None,
) -> None:
    """Run one DVC stage, without Prefect, and put its output into artifacts/."""
    from flows.stages import run_stage

    for line in run_stage(name, variant, set_):
        say(line)


@app.command(epilog="Example: `espalier up`, then open the addresses it prints")
def up(json_: JsonOption = False) -> None:
    """Start the MLflow and Prefect servers with their UIs on 127.0.0.1."""
    from flows.bars import shown_bars
    from tasks import services

    with shown_bars(json_) as (_, bars):
        done = bars.waiting("starting the MLflow and Prefect servers")
        state = services.start(Path.cwd())
        done()
    if json_:
        as_json(state)
        return
    for name, service in state.items():
        say(f"{name:10} {service['open']}")
    say("stop them with: espalier down")


@app.command(epilog="Example: `espalier down`")
def down(json_: JsonOption = False) -> None:
    """Stop the servers that `espalier up` started."""
    from tasks import services

    was_running = services.stop(Path.cwd())
    if json_:
        as_json(was_running)
        return
    for name, running in was_running.items():
        say(f"{name:10} {'stopped' if running else 'was not running'}")


def main() -> None:
    """Run the command line: exit code 2 for wrong input, 1 for a failed computation, one sentence each."""
    from pruning_core.errors import ComputationError, InputError

    for name, value in SAFE.items():
        os.environ.setdefault(name, value)
    try:
        _run_alone_or_together()
    except InputError as error:
        _fail(error, 2)
    except ComputationError as error:
        from flows.running import ServerLost

        _fail(error, 1, at_once=isinstance(error, ServerLost))
    except OSError as error:
        from tasks.building import full_disk

        # Reports, records and logs are written outside the steps, which tell it themselves.
        sentence = full_disk(error, Path.cwd())
        if sentence is None:
            raise
        _fail(sentence, 2)
    finally:
        # Typer turns Ctrl-C into an exit code without a word, Prefect at some instants into an error of its own.
        if _was_interrupted(sys.exc_info()[1]):
            _fail("stopped; what was done is stored, and the same command goes on from there", INTERRUPTED)


def _run_alone_or_together() -> None:
    """The command, in the first of the processes that `torchrun` started; the others follow it."""
    if os.environ.get("WORLD_SIZE", "1") == "1":
        app(standalone_mode=True)
        return
    from tasks import distributed

    distributed.join()
    if distributed.rank():
        distributed.follow()
        return
    # A command that failed lets nobody go on: torchrun stops the others.
    app(standalone_mode=False)
    distributed.stop()


def _was_interrupted(error: BaseException | None) -> bool:
    """Whether `error` came up on the way out of a Ctrl-C."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _fail(error: Exception | str, code: int, at_once: bool = False) -> None:
    print(f"espalier: {error}", file=sys.stderr, flush=True)
    if at_once:
        # Prefect would wait seconds for each event that its lost server does not take. What is stored survives any end.
        os._exit(code)
    sys.exit(code)


INTERRUPTED = 130
"""The exit code of a command that was stopped by Ctrl-C."""

SAFE = {
    "DO_NOT_TRACK": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DVC_NO_ANALYTICS": "1",
    # Prefect would print the traceback of an error that this command line tells in one sentence.
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    # Prefect's event worker would warn, on the root logger, that it still sends events when the command ends.
    "PREFECT_LOGGING_ROOT_LEVEL": "ERROR",
    "PREFECT_SERVER_LOGGING_LEVEL": "CRITICAL",
    # Of its workers in the background, which would tell of every event that a lost server does not take.
    "PREFECT_INTERNAL_LOGGING_LEVEL": "CRITICAL",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Telemetry off and quiet libraries; what the user has set stays."""

if __name__ == "__main__":
    main()
