"""Commands that maintain results: servers, reproduction, verification, garbage collection; imports inside them."""

from typing import Annotated

import typer

from flows.commands.options import JsonOption, app, print_result, say


@app.command(epilog="Example: `espalier reproduce 3f9d2c1a`")
def reproduce(
    run_id: Annotated[str, typer.Argument(help="Id of an MLflow run, or its first digits.")],
    from_cache: Annotated[
        bool, typer.Option("--from-cache", help="Use stored results instead of computing everything again.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make the variant of an MLflow run again, list what has changed, compare digests; exit code 1 if they differ."""
    from flows.actions.reproduce import print_reproduction, reproduce_run, require_identical

    reproduction = reproduce_run(run_id, from_cache, json_)
    print_result(reproduction, json_, print_reproduction)
    require_identical(reproduction)


@app.command(epilog="Example: `espalier verify`")
def verify(json_: JsonOption = False) -> None:
    """Read every stored byte; altered results are set aside and computed again when needed; exit code 1 if any."""
    from flows.actions.verify import print_verification, require_intact, verify_store

    verification = verify_store(json_)
    print_result(verification, json_, lambda verification: print_verification(verification, say))
    require_intact(verification)


@app.command(epilog="Example: `espalier gc --dry-run`")
def gc(
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would be removed, and why the rest stays.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Remove it.")] = False,
    keep_statistics: Annotated[
        bool, typer.Option(help="Keep the statistics and levels that kept variants were made from.")
    ] = True,
    older_than: Annotated[float, typer.Option(metavar="DAYS", help="Only results not used for this long.")] = 0.0,
    json_: JsonOption = False,
) -> None:
    """Remove stored results that params.yaml, DVC and MLflow do not refer to, directly or through other results."""
    from flows.actions.gc import collect, print_collection, require_consent

    collection = collect(keep_statistics, older_than, dry_run, yes, json_)
    print_result(collection, json_, print_collection)
    require_consent(collection, dry_run)


@app.command(epilog="Example: `espalier up`, then open the addresses it prints")
def up(json_: JsonOption = False) -> None:
    """Start the MLflow and Prefect servers with their UIs on 127.0.0.1."""
    from flows.actions.servers import print_started, start_servers

    state = start_servers(json_)
    print_result(state, json_, lambda state: print_started(state, say))


@app.command(epilog="Example: `espalier down`")
def down(json_: JsonOption = False) -> None:
    """Stop the servers that `espalier up` started."""
    from flows.actions.servers import print_stopped, stop_servers

    was_running = stop_servers()
    print_result(was_running, json_, lambda was_running: print_stopped(was_running, say))
