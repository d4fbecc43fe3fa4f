"""`medimg azure`: sets up a workspace in a subscription, looks at it, and takes everything down again."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from medimg.cli import options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from medimg.backends.azureml.bootstrap import Step
    from medimg.backends.azureml.status import Setup
    from medimg.backends.azureml.workspace import Workspace

__all__ = ["add_to"]

Subscription = Annotated[str | None, typer.Option(metavar="ID", help="(default: AZURE_SUBSCRIPTION_ID)")]
ResourceGroup = Annotated[str | None, typer.Option(metavar="NAME", help="(default: AZURE_RESOURCE_GROUP, or medimg)")]
WorkspaceName = Annotated[
    str | None, typer.Option("--workspace", metavar="NAME", help="(default: AZUREML_WORKSPACE_NAME, or medimg)")
]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="What the name of every blob begins with.")]

_GB = 2**30


class Form(StrEnum):
    """What an administrator takes."""

    bicep = "bicep"
    json = "json"


def add_to(app: typer.Typer) -> None:
    """Adds the group of commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Set up a workspace at Azure, check it, take it down.")
    for command in (bootstrap, status, doctor, teardown):
        group.command()(command)
    app.add_typer(group, name="azure")


def _open(subscription: str | None, resource_group: str | None, workspace: str | None, prefix: str) -> Workspace:
    from medimg.backends.azureml.workspace import Workspace

    return Workspace(subscription=subscription, resource_group=resource_group, workspace=workspace, prefix=prefix)


def bootstrap(
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    workspace: WorkspaceName = None,
    prefix: Prefix = "medimg",
    region: Annotated[
        str | None, typer.Option(metavar="NAME", help="Where data may be, such as westeurope; needed the first time.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(metavar="OBJECT_ID", help="A person or group that is given the roles.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be made; Azure is not asked.")] = False,
    form: Annotated[Form, typer.Option("--format", help="Of --dry-run.")] = Form.bicep,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Of --dry-run: where it is written.")
    ] = None,
) -> None:
    """Make resource group, storage, workspace, roles and identity; doing it again makes what is missing."""
    place = _open(subscription, resource_group, workspace, prefix)
    if dry_run:
        _hand_over(place, region, user, form, output)
        return
    if output is not None or form is not Form.bicep:
        raise typer.BadParameter("--output and --format go with --dry-run")
    from medimg.backends.azureml.bootstrap import bootstrap as make
    from medimg.backends.azureml.bootstrap import command

    _show(make(place, region=region, user=user), place)
    if user is None:
        typer.echo("\nGive the roles to who trains (az ad user show --id NAME --query id --output tsv):")
        typer.echo(f"  {command(place, 'bootstrap')} --user OBJECT_ID")
    typer.echo(f"Then: {command(place, 'doctor')}")


def _hand_over(place: Workspace, region: str | None, user: str | None, form: Form, output: Path | None) -> None:
    from medimg.backends.azureml.bicep import bicep, commands, template

    file = str(output or f"medimg.{form.value}")
    text = bicep(place, user, region or "REGION", file) if form is Form.bicep else template(place, user)
    then = ["It is made with:", *(f"  {line}" for line in commands(place, region or "REGION", file))]
    options.hand_over(text, output, then)


def status(
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    workspace: WorkspaceName = None,
    prefix: Prefix = "medimg",
) -> None:
    """Show what there is of the set-up, what runs, and what it costs while nobody uses it."""
    from medimg.backends.azureml.bootstrap import command
    from medimg.backends.azureml.status import status as look

    place = _open(subscription, resource_group, workspace, prefix)
    found = look(place)
    _show(found.steps, place)
    _show_running(found)
    if not found.is_complete:
        typer.echo(f"\nTo make what is missing: {command(place, 'bootstrap')}")


def _show_running(found: Setup) -> None:
    from rich.table import Table
    from rich.text import Text

    if found.running:
        table = Table("what", "name", "state", "machines", "an hour", title="what runs", title_justify="left")
        for each in found.running:
            rate = found.hourly.get(each.instance)
            cost = "nothing while idle"
            if each.count:
                cost = (
                    "unknown"
                    if rate is None or rate.amount is None
                    else f"{each.count * rate.amount:.3f} {rate.currency}"
                )
            machines = f"{each.count} × {each.instance}" if each.instance else str(each.count)
            table.add_row(each.kind, Text(each.name), each.state, Text(machines), cost)
        options.console().print(table)
    if not found.region:
        return
    cost = "unknown"
    if found.storage is not None and found.storage.amount is not None:
        monthly = found.storage.amount * found.size_bytes / _GB
        cost = f"{monthly:.2f} {found.storage.currency} a month ({found.storage.origin})"
    typer.echo(f"storage: {found.objects:,} blobs, {found.size_bytes / 1e6:,.1f} MB; {cost}")
    if found.registry:
        typer.echo(f"container registry {found.registry}: made by Azure for its images, billed by the day")


def doctor(
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    workspace: WorkspaceName = None,
    prefix: Prefix = "medimg",
    instance: Annotated[str | None, typer.Option(metavar="NAME", help="Whose quota is looked at.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="The quota of interruptible machines.")] = False,
    image: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of jobs, where it is not Microsoft's.")] = None,
) -> None:
    """Check login, workspace, storage, roles, quota and images; each with the command that mends it."""
    from medimg.backends.azureml.doctor import examine
    from medimg.backends.doctor import Checks
    from medimg.config import Resources

    found = Checks(
        examine(
            Resources(instance=instance, spot=spot), image,
            subscription=subscription, resource_group=resource_group, workspace=workspace, prefix=prefix,
        )
    )  # fmt: skip
    options.show_checks(found)


def teardown(
    subscription: Subscription = None,
    resource_group: ResourceGroup = None,
    workspace: WorkspaceName = None,
    prefix: Prefix = "medimg",
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="The workspace and its storage too, with every image and model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete identity and roles; endpoints and running jobs must have ended."""
    from medimg.backends.azureml.bootstrap import command
    from medimg.backends.azureml.status import status as look
    from medimg.backends.azureml.teardown import teardown as take_down

    place = _open(subscription, resource_group, workspace, prefix)
    if not yes:
        found = look(place)
        _show(found.steps, place)
        what = f"the identity and the roles of {place.resource_group!r}"
        if delete_data:
            size = f"{found.objects:,} blobs ({found.size_bytes / 1e6:,.0f} MB)"
            what += f", and the workspace {place.name!r} with {size} for good"
        typer.confirm(f"Delete {what}?", abort=True)
    left = take_down(place, delete_data=delete_data)
    _show(left, place)
    if not delete_data:
        again = f"{command(place, 'teardown')} --delete-data"
        typer.echo(f"Workspace and storage stay, and storage costs. To delete them too: {again}")


def _show(steps: Sequence[Step], place: Workspace) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "", "name", title=f"subscription {place.subscription}", title_justify="left")
    for step in steps:
        outcome = f"{step.outcome}: {step.note}" if step.note else step.outcome
        table.add_row(step.what, Text(outcome, overflow="fold"), Text(step.name, overflow="fold"))
    options.console().print(table)
