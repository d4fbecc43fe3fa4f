"""`medimg aws`: sets up an account, looks at it, and takes everything down again."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options

if TYPE_CHECKING:
    from medimg.backends.sagemaker.bootstrap import Setup

__all__ = ["add_to"]

_NO_ACCOUNT = "ACCOUNT"

Region = Annotated[str | None, typer.Option(metavar="NAME", help="Such as eu-central-1 (default: your own).")]
Profile = Annotated[str | None, typer.Option(metavar="NAME", help="Of your AWS configuration.")]
Bucket = Annotated[str | None, typer.Option(metavar="NAME", help="(default: medimg-ACCOUNT-REGION)")]
Prefix = Annotated[str, typer.Option(metavar="TEXT", help="What the key of every object begins with.")]
KmsKey = Annotated[
    str | None, typer.Option("--kms-key", metavar="ARN", help="Encrypts everything (default: AWS's own keys).")
]


class Form(StrEnum):
    """What an administrator takes."""

    cloudformation = "cloudformation"
    json = "json"


def add_to(app: typer.Typer) -> None:
    """Adds the group of commands to the program."""
    group = typer.Typer(no_args_is_help=True, help="Set up an AWS account, check it, take it down.")
    for command in (bootstrap, status, doctor, teardown):
        group.command()(command)
    app.add_typer(group, name="aws")


def bootstrap(
    region: Region = None,
    profile: Profile = None,
    bucket: Bucket = None,
    prefix: Prefix = "medimg",
    kms_key: KmsKey = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what would be made; AWS is not asked.")] = False,
    form: Annotated[Form, typer.Option("--format", help="Of --dry-run.")] = Form.cloudformation,
    account: Annotated[
        str, typer.Option(metavar="NUMBER", help="Of --dry-run --format json: your account.")
    ] = _NO_ACCOUNT,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Of --dry-run: where it is written.")
    ] = None,
) -> None:
    """Make bucket, roles and policies as the CloudFormation stack "medimg"; doing it again brings them up to date."""
    if dry_run:
        _hand_over(form, account, region, bucket, prefix, kms_key, output)
        return
    if output is not None or form is not Form.cloudformation or account != _NO_ACCOUNT:
        raise typer.BadParameter("--output, --format and --account go with --dry-run")
    from medimg.backends.sagemaker.account import Account
    from medimg.backends.sagemaker.bootstrap import bootstrap as make

    made = make(Account(region=region, profile=profile, bucket=bucket, prefix=prefix, kms_key=kms_key))
    _show(made)
    typer.echo("\nGive the policies to who trains (a user; for groups and roles likewise):")
    for arn in made.policies.values():
        typer.echo(f"  aws iam attach-user-policy --user-name NAME --policy-arn {arn}")
    typer.echo(f"Then: medimg aws doctor --region {made.region}")


def _hand_over(
    form: Form,
    account: str,
    region: str | None,
    bucket: str | None,
    prefix: str,
    kms_key: str | None,
    output: Path | None,
) -> None:
    from medimg.backends.sagemaker.template import documents, template

    if form is Form.cloudformation:
        made: dict[str, Any] = template(bucket=bucket, prefix=prefix, kms_key=kms_key)
        then = "aws cloudformation deploy --stack-name medimg --capabilities CAPABILITY_NAMED_IAM --template-file "
    else:
        made = documents(account, region=region or "*", bucket=bucket, prefix=prefix, kms_key=kms_key)
        then = "Roles, policies and bucket, to be made by hand"
    written = f"It is made with: {then}{output}" if form is Form.cloudformation else then
    options.hand_over(json.dumps(made, indent=2) + "\n", output, [written])


def status(region: Region = None, profile: Profile = None, bucket: Bucket = None, prefix: Prefix = "medimg") -> None:
    """Show what there is of the set-up, and what is kept."""
    from medimg.backends.sagemaker.account import Account
    from medimg.backends.sagemaker.bootstrap import status as look

    found = look(Account(region=region, profile=profile, bucket=bucket, prefix=prefix))
    _show(found)
    if not found.is_complete:
        typer.echo(f"\nTo make what is missing: medimg aws bootstrap --region {found.region}")


def doctor(
    region: Region = None,
    profile: Profile = None,
    bucket: Bucket = None,
    prefix: Prefix = "medimg",
    role: Annotated[str | None, typer.Option(metavar="NAME", help="That jobs run as (default: medimg-execution).")] = (
        None
    ),
    instance: Annotated[str | None, typer.Option(metavar="NAME", help="Whose quota is looked at.")] = None,
    spot: Annotated[bool, typer.Option("--spot", help="The quota of spot instances.")] = False,
    image: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of jobs, where it is not AWS's.")] = None,
) -> None:
    """Check credentials, bucket, roles, permissions, quota and images; each with the command that mends it."""
    from medimg.backends.doctor import Checks
    from medimg.backends.sagemaker.doctor import examine
    from medimg.config import Resources

    found = Checks(
        examine(
            Resources(instance=instance, spot=spot), image,
            region=region, profile=profile, bucket=bucket, prefix=prefix, role=role,
        )
    )  # fmt: skip
    options.show_checks(found)


def teardown(
    region: Region = None,
    profile: Profile = None,
    bucket: Bucket = None,
    prefix: Prefix = "medimg",
    delete_data: Annotated[
        bool, typer.Option("--delete-data", help="The bucket too, with every image, model and result.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete the stack with its roles and policies; endpoints and running jobs must have ended."""
    from medimg.backends.sagemaker.backend import SageMakerBackend
    from medimg.backends.sagemaker.bootstrap import status as look
    from medimg.backends.sagemaker.bootstrap import teardown as take_down

    backend = SageMakerBackend(region=region, profile=profile, bucket=bucket, prefix=prefix)
    found = look(backend.account)
    if not yes:
        _show(found)
        what = f"the stack of {found.region} with its roles and policies"
        if delete_data:
            what += f", and the bucket with {found.objects:,} objects ({found.size_bytes / 1e6:,.0f} MB) for good"
        typer.confirm(f"Delete {what}?", abort=True)
    left = take_down(backend, delete_data=delete_data)
    if left.bucket_exists:
        typer.echo(
            f"gone, except the bucket {left.bucket} with {left.objects:,} objects, which costs storage. "
            "To delete it too: medimg aws teardown --delete-data"
        )
    else:
        typer.echo("gone")


def _show(found: Setup) -> None:
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "", "name", title=f"account {found.account}, {found.region}", title_justify="left")
    kept = f"{found.objects:,} objects, {found.size_bytes / 1e6:,.1f} MB"
    table.add_row("stack", Text(found.stack or "none"), "medimg")
    table.add_row("bucket", Text(kept if found.bucket_exists else "none"), Text(found.bucket))
    for what, made in (("role", found.roles), ("policy", found.policies)):
        for name, arn in made.items():
            table.add_row(what, "there" if arn else "none", Text(arn or name, overflow="fold"))
    options.console().print(table)
