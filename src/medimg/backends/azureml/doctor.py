"""What of a subscription and workspace is ready for medimg, each check with the command that mends what fails."""

from __future__ import annotations

import base64
import json
import math
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from azure.core import PipelineClient
from azure.core.pipeline.policies import RetryPolicy
from azure.core.rest import HttpRequest

from medimg.backends.azureml.blueprint import GROUP_API, PROVIDERS
from medimg.backends.azureml.bootstrap import command, find
from medimg.backends.azureml.deadlines import ender_lacks
from medimg.backends.azureml.errors import BLOB_ROLE, translated
from medimg.backends.azureml.instances import JOB_INSTANCE, SERVING_INSTANCE
from medimg.backends.azureml.roles import DATA_SCIENTIST, IN_WORKSPACE, USER_ROLE, allows
from medimg.backends.azureml.workspace import ARM, ENDER, Workspace
from medimg.backends.doctor import Check
from medimg.config import Resources
from medimg.errors import (
    AccessError,
    ConfigError,
    MedimgError,
    MissingExtraError,
    NotFoundError,
    UnreachableError,
)

__all__ = ["checks", "examine"]

_LOGIN = "https://login.microsoftonline.com"
_API = "2024-10-01"  # of Azure Machine Learning
_IDENTITY_API = "2023-01-31"
_STORAGE_API = "2023-05-01"
_REGISTRY_API = "2023-07-01"
_RIGHTS_API = "2022-04-01"
_SKEW_SECONDS = 240  # a login is not accepted five minutes away from Azure's own clock
_AT_ONCE = 8
_MOST_SHOWN = 4  # actions that are missing
_RESERVE = 1.2  # an endpoint's update needs a fifth more machines than it has, in Azure's count: whole ones
_LOW_PRIORITY = "Total Cluster Low Priority Regional vCPUs"

Work = Callable[[], Check]
Permission = Mapping[str, Sequence[str]]


def examine(resources: Resources | None = None, image: str | None = None, **options: Any) -> list[Check]:
    """Returns the checks where there may not even be a subscription; options as for `Workspace`."""
    try:
        workspace = Workspace(**options)
    except ConfigError as error:
        if better := re.search(r"export AZURE_SUBSCRIPTION_ID=.*", str(error)):
            return [Check("subscription", False, str(error), better[0])]
        return [Check("options", False, str(error), "medimg azure doctor --help")]
    return checks(workspace, resources or Resources(), image)


def checks(workspace: Workspace, resources: Resources, image: str | None = None) -> list[Check]:
    """Returns what is ready and what is not; a check that fails is returned, never raised.

    Only the check of writing changes anything: it writes a small blob and deletes it.

    Args:
        workspace: What is looked at.
        resources: What a job would ask for: the quota is that of its instance.
        image: The image of jobs, where it is not Microsoft's.
    """
    first = _packages()
    login, subscription, clock, person = _who(workspace)
    job = resources.instance or JOB_INSTANCE
    remaining: list[tuple[str, Work]] = [
        ("services", lambda: _services(workspace)),
        ("resource group", lambda: _group(workspace)),
        ("workspace", lambda: _workspace(workspace)),
        ("storage is closed", lambda: _closed(workspace)),
        ("storage is writable", lambda: _writable(workspace, person)),
        ("what you may do", lambda: _permitted(workspace, person)),
        ("identity for ttl_hours", lambda: _ender(workspace)),
        ("what that identity may do", lambda: _ender_rights(workspace)),
        ("quota of jobs", lambda: _quota(workspace, job, resources.count, spot=resources.spot)),
        ("quota of endpoints", lambda: _quota(workspace, SERVING_INSTANCE, 1, reserve=_RESERVE)),
        ("image of jobs", lambda: _image(workspace, image)),
    ]
    if login.ok is not True or subscription.ok is not True:
        unknown = [
            Check(name, None, "not asked: there is no login that sees the subscription") for name, _ in remaining
        ]
        return [first, login, subscription, clock, *unknown]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return [first, login, subscription, clock, *pool.map(lambda one: _guarded(*one), remaining)]


def _guarded(name: str, work: Work) -> Check:
    """Returns the check under its name; what may not or cannot be asked is not known."""
    try:
        check = work()
    except NotFoundError as error:
        return Check(name, None, f"not asked: {error}")
    except MissingExtraError as error:
        return Check(name, False, str(error), f"pip install 'medimg[{error.extra}]'")
    except Exception as error:  # one check must not hide the others
        return Check(name, None, f"could not be asked: {error}")
    return Check(name, check.ok, check.found, check.fix)


def _packages() -> Check:
    found = []
    for name in ("azure-ai-ml", "azure-identity", "azure-storage-blob"):
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            return Check("packages", False, f"{name} is not installed", "pip install 'medimg[azureml]'")
    return Check("packages", True, ", ".join(found))


def _bootstrap(workspace: Workspace) -> str:
    return command(workspace, "bootstrap")


# -- who ----------------------------------------------------------------------------------------------------------


def _who(workspace: Workspace) -> tuple[Check, Check, Check, str]:
    """Returns the checks of login, subscription and clock, and the object id of who is logged in."""
    no_time = Check("clock", None, "Azure did not tell its time")
    unknown = Check("subscription", None, "not asked: there is no login")
    try:
        with translated("logging in"):
            token = workspace.credential.hasty.get_token(f"{ARM}/.default").token
    except MedimgError as error:
        if not _login_answers():
            return Check("login", None, f"{_LOGIN} does not answer"), unknown, no_time, ""
        return Check("login", False, str(error), "az login"), unknown, no_time, ""
    claims = _claims(token)
    name = claims.get("upn") or claims.get("unique_name") or claims.get("app_displayname") or claims.get("appid")
    login, person = Check("login", True, str(name or "a login")), str(claims.get("oid", ""))
    request = HttpRequest("GET", f"{ARM}/subscriptions", params={"api-version": GROUP_API})
    try:
        with translated("looking for the subscription"):
            answer = workspace.pipeline(f"{ARM}/.default").send_request(request, retry_total=1)
            answer.raise_for_status()
    except MedimgError as error:
        return login, Check("subscription", None, str(error)), no_time, person
    return (
        login,
        _subscription(workspace, json.loads(answer.text())["value"]),
        _clock(answer.headers.get("Date")),
        person,
    )


def _login_answers() -> bool:
    """Tells whether Azure can be reached: its library says of a broken network, too, that nobody is signed in."""
    client = PipelineClient(_LOGIN, policies=[RetryPolicy(retry_total=1)])
    try:
        with translated("looking for Azure"):
            path = "/common/v2.0/.well-known/openid-configuration"
            client.send_request(HttpRequest("GET", _LOGIN + path), connection_timeout=4, read_timeout=15)
    except UnreachableError:
        return False
    return True


def _subscription(workspace: Workspace, seen: Sequence[Mapping[str, Any]]) -> Check:
    told = next((each for each in seen if each["subscriptionId"].lower() == workspace.subscription.lower()), None)
    if told is None:
        found = f"this login does not see {workspace.subscription}, but {len(seen)} others"
        return Check("subscription", False, found, "az account list --output table")
    state, found = str(told.get("state", "")), f"{told.get('displayName', '')} ({workspace.subscription})"
    # A subscription that is past due still works, and is about to stop.
    if state not in ("Enabled", "PastDue"):
        fix = f"az account subscription enable --subscription-id {workspace.subscription}"
        return Check("subscription", False, f"{found} is {state}", fix)
    return Check("subscription", True, found if state == "Enabled" else f"{found} is {state}")


def _claims(token: str) -> Mapping[str, Any]:
    """Returns what a token says of its owner, unchecked: it is only shown."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _clock(told: str | None) -> Check:
    if told is None:
        return Check("clock", None, "Azure did not tell its time")
    skew = time.time() - parsedate_to_datetime(told).timestamp()
    if abs(skew) > _SKEW_SECONDS:
        found = f"this machine's clock is {abs(skew):.0f} s {'fast' if skew > 0 else 'slow'}: Azure refuses its logins"
        return Check("clock", False, found, "sudo timedatectl set-ntp true")
    return Check("clock", True, f"within {max(1, round(abs(skew)))} s of Azure's")


# -- what there is ------------------------------------------------------------------------------------------------


def _services(workspace: Workspace) -> Check:
    def is_off(provider: str) -> bool:
        with translated(f"asking whether {provider} is switched on"):
            id = f"/subscriptions/{workspace.subscription}/providers/{provider}"
            answer = workspace.arm("GET", id, GROUP_API, patient=False)
        return bool(answer["registrationState"] != "Registered")

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        off = [name for name, missing in zip(PROVIDERS, pool.map(is_off, PROVIDERS), strict=True) if missing]
    if off:
        uses = "; ".join(f"{name} ({PROVIDERS[name]})" for name in off)
        fix = " && ".join(f"az provider register --wait --namespace {name}" for name in off)
        return Check("", False, f"switched off in the subscription: {uses}", fix)
    return Check("", True, f"all {len(PROVIDERS)} switched on")


def _group(workspace: Workspace) -> Check:
    name = workspace.resource_group
    found = find(workspace, workspace.group_id, GROUP_API, f"resource group {name!r}", patient=False)
    if found is None:
        return Check("", False, f"there is no resource group {name!r}", f"{_bootstrap(workspace)} --region westeurope")
    return Check("", True, f"{name}, {found['location']}")


def _found(workspace: Workspace) -> dict[str, Any]:
    """Returns the workspace as Azure describes it."""
    with translated(f"looking for the workspace {workspace.name!r}"):
        return workspace.arm("GET", workspace.id, _API, patient=False)


def _workspace(workspace: Workspace) -> Check:
    try:
        found = _found(workspace)
    except NotFoundError:
        missing = f"the resource group {workspace.resource_group!r} has no workspace {workspace.name!r}"
        return Check("", False, missing, _bootstrap(workspace))
    state = found["properties"].get("provisioningState")
    if state != "Succeeded":
        return Check("", False, f"{workspace.name} in {found['location']} is {state}", _bootstrap(workspace))
    return Check("", True, f"{workspace.name}, {found['location']}")


def _closed(workspace: Workspace) -> Check:
    id = str(_found(workspace)["properties"]["storageAccount"])
    name = id.rpartition("/")[2]
    with translated(f"looking for the storage account {name!r}"):
        account = workspace.arm("GET", id, _STORAGE_API, patient=False)
    if account["properties"].get("allowBlobPublicAccess") is not False:
        fix = f"az storage account update --ids {id} --allow-blob-public-access false"
        return Check("", False, f"what is in {name!r} could be made public", fix)
    workspace.storage.check_closed()
    return Check("", True, f"{name}: public access is blocked")


def _writable(workspace: Workspace, person: str) -> Check:
    key = f"doctor/{uuid.uuid4().hex}"
    try:
        workspace.storage.put(key, b"medimg")
        workspace.storage.delete_prefix(key)
    except (AccessError, ConfigError) as error:
        if BLOB_ROLE in str(error):  # which bootstrap does not give: its own workspaces have a key
            account = _found(workspace)["properties"]["storageAccount"]
            fix = f"az role assignment create --role '{BLOB_ROLE}' --assignee {person or 'OBJECT_ID'} --scope {account}"
            return Check("", False, str(error), fix)
        return Check("", False, str(error), f"{_bootstrap(workspace)} --dry-run --output for-your-administrator.bicep")
    return Check("", True, f"a blob was written below {workspace.prefix}/ and deleted")


# -- roles --------------------------------------------------------------------------------------------------------


def _permitted(workspace: Workspace, person: str) -> Check:
    wanted = {
        workspace.id: [action for grant in IN_WORKSPACE for action in grant.actions],
        workspace.group_id: list(USER_ROLE.actions),
    }
    missing = []
    for scope, actions in wanted.items():
        with translated("asking what you may do"):
            path = f"{scope}/providers/Microsoft.Authorization/permissions"
            granted = list(workspace.arm_list(path, _RIGHTS_API, patient=False))
        missing += _missing(granted, actions)
    fix = f"{_bootstrap(workspace)} --user {person or 'OBJECT_ID'}"
    return _rights(missing, fix, f"all that {DATA_SCIENTIST.name} and {USER_ROLE.name} allow")


def _missing(granted: Sequence[Permission], wanted: Iterable[str]) -> list[str]:
    return [
        action
        for action in wanted
        if not any(allows(each.get("actions", ()), each.get("notActions", ()), action) for each in granted)
    ]


def _rights(missing: Sequence[str], fix: str, good: str) -> Check:
    if not missing:
        return Check("", True, good)
    more = f" and {len(missing) - _MOST_SHOWN} more" if len(missing) > _MOST_SHOWN else ""
    return Check("", False, f"not allowed: {', '.join(missing[:_MOST_SHOWN])}{more}", fix)


def _ender(workspace: Workspace) -> Check:
    if find(workspace, workspace.ender_id, _IDENTITY_API, f"identity {ENDER!r}", patient=False) is None:
        return Check("", False, f"there is no identity {ENDER!r}: ttl_hours is refused", _bootstrap(workspace))
    return Check("", True, ENDER)


def _ender_rights(workspace: Workspace) -> Check:
    missing = ender_lacks(workspace, patient=False)
    return _rights(missing, _bootstrap(workspace), "it may delete endpoints, and no more")


# -- quota and image ----------------------------------------------------------------------------------------------


def _quota(workspace: Workspace, instance: str, count: int, *, spot: bool = False, reserve: float = 1.0) -> Check:
    region = str(_found(workspace)["location"])
    place = f"/subscriptions/{workspace.subscription}/providers/Microsoft.MachineLearningServices/locations/{region}"
    with translated(f"asking for the machines of {region}"):
        sizes = list(workspace.arm_list(f"{place}/vmSizes", _API, patient=False))
    size = next((each for each in sizes if each["name"].lower() == instance.lower()), None)
    if size is None:
        fix = f"az ml compute list-sizes --resource-group {workspace.resource_group} --workspace-name {workspace.name}"
        return Check("", False, f"there is no {instance} in {region}", fix)
    with translated(f"asking for the quota of {region}"):
        rows = {_row(each): each for each in workspace.arm_list(f"{place}/usages", _API, patient=False)}
    needed = size["vCPUs"] * math.ceil(count * reserve)
    low = rows.get(_LOW_PRIORITY)
    name, row = (_LOW_PRIORITY, low) if spot else _of_family(rows, size["family"])
    if row is None:
        return Check("", None, f"Azure lists no quota of {name} in {region}")
    free = _free(row)
    if free >= needed:
        return Check("", True, f"{name}: {_shown(row)}, {needed} needed")
    spare = " with the spare machine of an update" if reserve > 1.0 else ""
    found = f"{name}: {_shown(row)}, and {instance} needs {needed}{spare}"
    if not spot and reserve == 1.0 and low is not None and _free(low) >= needed:
        found += f". With spot=True another quota counts, which is enough: {_shown(low)}"
    kind, resource = ("lowPriority", "TotalLowPriorityCores") if spot else ("dedicated", size["family"])
    limit = int(row["currentValue"]) + needed
    fix = f"az quota update --resource-name {resource} --scope {place} --limit-object value={limit}"
    return Check("", False, found, f"{fix} --resource-type {kind}")


def _row(usage: Mapping[str, Any]) -> str:
    return str(usage["name"].get("localizedValue") or usage["name"]["value"])


def _of_family(rows: Mapping[str, Mapping[str, Any]], family: str) -> tuple[str, Mapping[str, Any] | None]:
    """Returns the row of a family, which has other spellings among the machines: "standardNCASv3_T4Family"."""
    for name, row in rows.items():
        spelt = name.removesuffix(" Cluster Dedicated vCPUs")
        if re.sub(r"[\s_]|family$", "", spelt.lower()) == re.sub(r"[\s_]|family$", "", family.lower()):
            return name, row
    return family, None


def _free(row: Mapping[str, Any]) -> float:
    limit = int(row["limit"])
    return float("inf") if limit < 0 else limit - int(row["currentValue"])


def _shown(row: Mapping[str, Any]) -> str:
    return "no limit" if int(row["limit"]) < 0 else f"{_free(row):.0f} of {row['limit']} cores free"


def _image(workspace: Workspace, image: str | None) -> Check:
    if image is not None:
        return Check("", None, f"{image}: whether Azure can build on it is seen when the first job starts")
    id = str(_found(workspace)["properties"].get("containerRegistry") or "")
    if not id:
        return Check("", True, "Microsoft's; with the first job Azure makes a container registry and builds on them")
    name = id.rpartition("/")[2]
    found = find(workspace, id, _REGISTRY_API, f"container registry {name!r}", patient=False)
    if found is None:
        missing = f"the container registry {name!r} of the workspace is gone: nothing can be built"
        fix = (
            f"az acr create --name {name} --resource-group {workspace.resource_group} --sku Basic --admin-enabled true"
        )
        return Check("", False, missing, fix)
    return Check("", True, f"Microsoft's, built into {name}")
