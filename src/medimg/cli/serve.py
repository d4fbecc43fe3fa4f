"""`medimg serve`: the page for people and the HTTP routes, in the foreground, until Ctrl-C."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medimg.cli import options
from medimg.errors import ConfigError, MedimgError

if TYPE_CHECKING:
    from medimg.artifact import ModelFolder
    from medimg.backends.base import Backend

__all__ = ["add_to"]

_PORT = 8000
_GRACE_SECONDS = 50.0  # for the server to finish what it is answering: it takes 20 for requests, 20 for its workers


def add_to(app: typer.Typer) -> None:
    """Adds the command to the program."""
    app.command()(serve)


def serve(
    model: Annotated[
        str | None,
        typer.Argument(
            metavar="[MODEL]", help="A model folder, a job's id or name/version (default: the latest job's)."
        ),
    ] = None,
    endpoint: Annotated[
        str | None,
        typer.Option(metavar="BACKEND:NAME", help="Put the page in front of this endpoint instead."),
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = _PORT,
    host_name: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A name that a proxy in front goes by.")
    ] = None,
    keys: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keys made by `medimg keys add` (default: a new one is printed)."),
    ] = None,
    no_auth: Annotated[bool, typer.Option("--no-auth", help="Ask for no key; on this machine only.")] = False,
    open_page: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Serve a model with a page for people, here in the foreground; Ctrl-C ends it."""
    if model is not None and endpoint is not None:
        raise typer.BadParameter("MODEL runs here, --endpoint runs somewhere else. Give one of them")
    if no_auth and keys is not None:
        raise typer.BadParameter("--keys asks for a key, --no-auth for none. Give one of them")
    _check(host, port, no_auth)
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, signal.default_int_handler)  # ends in the same order as Ctrl-C
    status = 0
    with _keys(keys, no_auth) as (file, key), contextlib.suppress(KeyboardInterrupt):
        if endpoint is None:
            status = _serve_here(model, host, port, host_name or [], file, key, open_page)
        else:
            status = _serve_elsewhere(endpoint, host, port, host_name or [], file, key, open_page)
    if status:
        raise typer.Exit(status)


def _check(host: str, port: int, no_auth: bool) -> None:
    import ipaddress

    from medimg.serving.web.server import bound

    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        raise typer.BadParameter(f"--host takes an IP address such as 127.0.0.1 or 0.0.0.0, not {host!r}") from None
    if no_auth and not loopback:
        raise ConfigError(f"{host} can be reached from other machines: a key is needed. Leave out --no-auth")
    try:
        bound(host, port).close()
    except OSError as error:
        raise ConfigError(f"cannot listen on {host}:{port} ({error.strerror}). Take a free port: --port 0") from None


@contextlib.contextmanager
def _keys(given: Path | None, no_auth: bool) -> Iterator[tuple[Path | None, str]]:
    """Yields the file of keys, None where none is asked for, and the key that was made for it, or ""."""
    from medimg.key_file import KeyFile

    if no_auth or given is not None:
        if given is not None:
            KeyFile(given).read()  # says so now where it is none
        yield given, ""
        return
    with tempfile.TemporaryDirectory(prefix="medimg-serve-") as folder:
        file = Path(folder) / "keys.json"
        key, _ = KeyFile(file).add("owner", limited=False)
        yield file, key


def _show(host: str, port: int, key: str, open_page: bool) -> None:
    shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    address = f"http://{shown}:{port}/"
    typer.echo(f"page  {address}")
    if key:
        typer.echo(f"key   {key}\n      to sign in with, or as 'Authorization: Bearer KEY'; it ends with this server")
    typer.echo("end   Ctrl-C")
    if open_page:
        import webbrowser

        webbrowser.open(address)


# -- a model here ------------------------------------------------------------------------------------------------------


def _serve_here(
    name: str | None, host: str, port: int, names: list[str], keys: Path | None, key: str, open_page: bool
) -> int:
    target = options.open_backend("local")
    model = options.find_model(target, name)
    version = name if name is not None and any(each.id == name for each in target.models()) else ""
    with tempfile.TemporaryDirectory(prefix="medimg-serve-") as folder, _log_folder(model.digest) as log:
        address = Path(folder) / "address.json"
        command = [sys.executable, "-m", "medimg.serving", "--model", str(model.path), "--digest", model.digest]
        command += ["--host", host, "--port", str(port), "--address-file", str(address), "--log-folder", str(log)]
        command += ["--end-with-input"]
        command += ["--version", version, *(part for each in names for part in ("--host-name", each))]
        if keys is not None:
            command += ["--keys", str(keys)]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as server:
            try:
                return _until_it_ends(server, address, key, open_page)
            finally:
                _end(server)


@contextlib.contextmanager
def _log_folder(digest: str) -> Iterator[Path]:
    """Yields the folder of a model's request log, which `medimg drift` reads; each server has its own while it runs."""
    from medimg.home import home, make_folder

    for number in itertools.count(1):
        folder = home() / "served" / (digest[:16] if number == 1 else f"{digest[:16]}-{number}")
        make_folder(folder)
        with (folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder
            return


def _until_it_ends(server: subprocess.Popen[bytes], address: Path, key: str, open_page: bool) -> int:
    while not address.exists():
        if server.poll() is not None:
            return 1  # it has said why
        time.sleep(0.02)
    told: Mapping[str, Any] = json.loads(address.read_text())
    _show(told["host"], told["port"], key, open_page)
    return server.wait()


def _end(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGTERM)  # does nothing where it has ended
    try:
        server.wait(_GRACE_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        server.kill()


# -- an endpoint somewhere else ----------------------------------------------------------------------------------------


def _serve_elsewhere(
    endpoint: str, host: str, port: int, names: list[str], keys: Path | None, key: str, open_page: bool
) -> int:
    import secrets

    from medimg.serving.access.gate import Gate, hosts_of
    from medimg.serving.access.keys import Keys
    from medimg.serving.access.sessions import Sessions
    from medimg.serving.elsewhere import serve_elsewhere
    from medimg.serving.web.description import described, probe, told_by
    from medimg.serving.web.server import bound

    backend_name, separator, name = endpoint.partition(":")
    if not (separator and name):
        raise typer.BadParameter("--endpoint takes BACKEND:NAME, such as sagemaker:chest")
    backend = options.open_backend(backend_name)
    # Asked once before anybody comes: it must exist, the credentials must do, and its answer tells of the model.
    first = backend.endpoint(name)._answer(probe())

    def describe(answer: Mapping[str, Any]) -> Mapping[str, Any]:
        model, version = _model_of(backend, str(answer.get("digest", "")))
        version = str(answer.get("version") or version)
        return told_by(answer, name=name, version=version) if model is None else described(model, version)

    gate = Gate(
        None if keys is None else Keys.of_file(keys),
        None if keys is None else Sessions(secrets.token_bytes(32)),
        hosts=hosts_of(host, names),
    )
    listening = bound(host, port)
    shown_port = int(listening.getsockname()[1])
    return serve_elsewhere(
        lambda image: backend._invoke(name, image), describe, first, listening, where=f"{backend_name} endpoint {name}",
        gate=gate, on_start=lambda: _show(host, shown_port, key, open_page),
    )  # fmt: skip


def _model_of(backend: Backend, digest: str) -> tuple[ModelFolder | None, str]:
    """Returns the registered model with a digest and its version; (None, "") where there is none."""
    try:
        found = next((version for version in reversed(backend.models()) if version.digest == digest), None)
        if found is not None:
            return found.load(), found.id
    except MedimgError as error:
        typer.echo(f"the model card cannot be shown: {error}", err=True)
    return None, ""
