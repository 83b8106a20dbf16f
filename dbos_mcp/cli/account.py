"""`login`, `logout` and `whoami`."""

import json
import time
import webbrowser
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dbos_mcp.cli.options import AsJson, OneProfile
from dbos_mcp.cli.terminal import err, out, print_warning, say, until_interrupted, working
from dbos_mcp.domain import plain, tell_time
from dbos_mcp.errors import LoginPendingError, UnavailableError
from dbos_mcp.server.render import fields

if TYPE_CHECKING:
    from dbos_mcp.conductor.device_login import DeviceLogin
    from dbos_mcp.login import Account, LoggedIn, LoginFlow
    from dbos_mcp.settings import Settings


def login(
    context: typer.Context,
    profile: OneProfile = None,
    browser: Annotated[
        bool, typer.Option("--browser", help="Open the address in a browser of this machine.")
    ] = False,
) -> None:
    """Log in to Conductor, by a code that you approve in a browser.

    It shows an address and a code, and waits until you have approved the code there, on any device.
    Approve it only if the page shows the same one. The login is kept for all servers of this user,
    and is renewed by itself where the issuer allows it.
    """
    import anyio

    settings = context.obj.target(profile)
    with until_interrupted("The login was given up."):
        done = anyio.run(_log_in, settings, browser)
    login = done.login
    who = plain(login.user_name or "a user")
    of = f" of {plain(login.organization)}" if login.organization else ""
    say(f"Logged in as {who}{of}.")
    if login.refresh_token is not None:
        say("The login is renewed by itself.")
    elif login.ends_at is not None:
        say(f"The login is good until {tell_time(login.ends_at)}.")
    if done.problem is not None:
        print_warning(f"{done.problem} Then `dbos-mcp whoami` asks again.")


async def _log_in(settings: "Settings", browser: bool) -> "LoggedIn":
    from dbos_mcp.login import LoginFlow

    flow = LoginFlow(settings)
    device = await flow.begin()
    _show_code(device)
    # https, or on this machine: no other address comes out of `begin`.
    if browser and not webbrowser.open(device.url):
        print_warning("No browser could be opened.")
    return await _approved(flow, device)


def _show_code(device: "DeviceLogin") -> None:
    from rich.panel import Panel
    from rich.style import Style
    from rich.text import Text

    url = plain(device.url, limit=2000)
    seconds = device.expires_at - time.monotonic()
    say("Open this address in a browser, and check that it shows the same code:")
    out.print(Text.assemble("url: ", (url, Style(link=url))))
    code = plain(device.user_code)
    if out.is_terminal:
        out.print(Panel.fit(Text(code, "bold"), padding=(1, 4)), soft_wrap=False)
    else:
        say(f"code: {code}")
    until = f"{tell_time(int(time.time() + seconds))} ({_left(seconds)})"
    say(fields([("host", device.host), ("valid until", until)]))


async def _approved(flow: "LoginFlow", device: "DeviceLogin") -> "LoggedIn":
    """Wait for as long as the code is valid."""

    def waiting() -> str:
        left = _left(device.expires_at - time.monotonic())
        return f"Waiting for the approval, {left} left; Ctrl-C gives the login up."

    if not err.is_interactive:
        say(waiting(), console=err)
    problem = ""
    with working(waiting()) as spinner:
        while True:
            try:
                return await flow.complete(timeout_seconds=1)
            except LoginPendingError:
                problem = ""
            except UnavailableError as error:
                if error.message != problem:
                    print_warning(f"{error.message} The login is still valid.")
                problem = error.message
            spinner.update(waiting())


def _left(seconds: float) -> str:
    """`0:14:59`"""
    return str(timedelta(seconds=max(0, round(seconds))))


def logout(context: typer.Context, profile: OneProfile = None) -> None:
    """Forget the login to Conductor; the mirror stays.

    What was mirrored can still be read. The login server is asked to end the login, too, where it
    can; a login that dbosctl made is only no longer used here.
    """
    import anyio

    from dbos_mcp.login import log_out

    settings = context.obj.target(profile)
    with until_interrupted():
        done = anyio.run(log_out, settings)
    if done.who is None:
        say(f"Nobody is logged in to {plain(settings.address)}.")
        return
    organization = settings.organization or done.who.organization
    who = plain(done.who.user_name or "a user")
    of = f" of {plain(organization)}" if organization else ""
    say(f"Logged out {who}{of}.")
    if done.borrowed:
        say("That login was made elsewhere: there it stays, and is not used here any more.")
    elif done.revoked:
        say("The login server has ended the login, too.")
    else:
        until = f" at {tell_time(done.who.ends_at)}" if done.who.ends_at else " by itself"
        say(f"The login server has not ended the login: its token ends{until}.")
    if organization and (path := settings.cache_path(organization)).exists():
        say(f"The mirror stays, and can still be read: {path}")


def whoami(
    context: typer.Context,
    profile: OneProfile = None,
    as_json: AsJson = False,
) -> None:
    """Show who you are to Conductor, what you may, and until when.

    Conductor is asked, so it also tells whether the login or the API key is still good.
    """
    import anyio

    from dbos_mcp.login import who_am_i

    settings = context.obj.target(profile)
    with until_interrupted():
        account = anyio.run(who_am_i, settings)
    told = _account_fields(account)
    if as_json:
        known = {"checked": account.checked, "error": account.error and str(account.error)}
        typer.echo(json.dumps({**told, **known, "warnings": account.warnings}, indent=2))
    else:
        lines = [
            (name.replace("_", " "), ", ".join(value) if isinstance(value, list) else value)
            for name, value in told.items()
        ]
        say(fields(lines))
    for warning in account.warnings:
        print_warning(warning)
    if account.error is not None:
        raise account.error


def _account_fields(account: "Account") -> dict[str, Any]:
    user = account.user
    role = None if user is None else user.role
    return {
        "profile": account.profile,
        "conductor": account.url,
        "organization": account.organization,
        "user": user and user.name,
        "email": user and user.email,
        "role": role and role.name,
        "permissions": role and role.permissions,
        "plan": user and user.subscription_plan,
        "authentication": account.authentication,
        "ends_at": account.ends_at and tell_time(account.ends_at),
    }
