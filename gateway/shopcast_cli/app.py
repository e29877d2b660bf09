"""The commands of `platform`, by name."""

from importlib.metadata import version
from typing import Annotated

import typer

from shopcast_cli.commands import (
    data,
    demo,
    directory,
    doctor,
    evaluate,
    export,
    link_people,
    model,
    models,
    people,
    requests,
    serve,
    simulate,
    triton,
    watch,
)

app = typer.Typer(
    name="platform",
    help=(
        "Shopcast: what will a shopper do next with an item?\n\n"
        "Start with `platform demo`. Then: `simulate` or bring event logs and look"
        " at them (`data inspect`, `data check`), `build-model`, `models list`,"
        " `directory import`, `serve`, `predict`."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"shopcast {version('shopcast')}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool,
        typer.Option("--version", callback=_say_version, is_eager=True, help="Say which version."),
    ] = False,
) -> None:
    """What `platform` takes before a command."""


app.command("demo")(demo.demo)
app.command("simulate")(simulate.simulate)
app.command("build-model")(model.build_model)
app.command("export")(export.export)
app.add_typer(models.app, name="models")
app.add_typer(data.app, name="data")
app.command("link-people")(link_people.link_people)
app.command("evaluate")(evaluate.evaluate)
app.add_typer(directory.app, name="directory")
app.add_typer(people.app, name="people")
app.add_typer(triton.app, name="triton")
app.command("doctor")(doctor.doctor)
app.command("serve")(serve.serve)
app.command("watch")(watch.watch)
app.command("predict")(requests.predict)
app.command("record")(requests.record)
app.command("link")(requests.link)
