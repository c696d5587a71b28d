"""Commands that look after what was made: servers, reproduction, verification, garbage; imports inside them."""

from typing import Annotated

import typer

from flows.commands.options import JsonOption, app, as_json, say


@app.command(epilog="Example: `espalier reproduce 3f9d2c1a`")
def reproduce(
    run_id: Annotated[str, typer.Argument(help="Of an MLflow run; its first digits suffice.")],
    from_cache: Annotated[
        bool, typer.Option("--from-cache", help="Take stored results, instead of computing everything anew.")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Make the variant of an MLflow run again, say what changed since, and compare digests; exit code 1 if others."""
    from flows.actions.reproduce import print_reproduction, reproduce_run, require_identical

    found = reproduce_run(run_id, from_cache, json_)
    if json_:
        as_json(found)
    else:
        print_reproduction(found)
    require_identical(found)


@app.command(epilog="Example: `espalier verify`")
def verify(json_: JsonOption = False) -> None:
    """Read every byte that is stored; what was altered is set aside and computed anew later; exit code 1 if any."""
    from flows.actions.verify import print_verification, require_intact, verify_store

    found = verify_store(json_)
    if json_:
        as_json(found)
    else:
        print_verification(found, say)
    require_intact(found)


@app.command(epilog="Example: `espalier gc --dry-run`")
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
    from flows.actions.gc import collect, print_collection, require_consent

    found = collect(keep_statistics, older_than, dry_run, yes, json_)
    if json_:
        as_json(found)
    else:
        print_collection(found)
    require_consent(found, dry_run)


@app.command(epilog="Example: `espalier up`, then open the addresses it prints")
def up(json_: JsonOption = False) -> None:
    """Start the MLflow and Prefect servers with their UIs on 127.0.0.1."""
    from flows.actions.servers import print_started, start_servers

    state = start_servers(json_)
    if json_:
        as_json(state)
    else:
        print_started(state, say)


@app.command(epilog="Example: `espalier down`")
def down(json_: JsonOption = False) -> None:
    """Stop the servers that `espalier up` started."""
    from flows.actions.servers import print_stopped, stop_servers

    was_running = stop_servers()
    if json_:
        as_json(was_running)
    else:
        print_stopped(was_running, say)
