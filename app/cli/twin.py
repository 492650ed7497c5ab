"""`twin`: the provider, played here."""

from typing import Annotated

import typer

from app.cli.serve import server
from app.twin import build
from app.twin.rules import Profile


def twin(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=0, max=65535)] = 8090,
    ready_after: Annotated[float, typer.Option(help="Seconds until an image is ready.", min=0)] = 2.0,
    profile: Annotated[
        Profile, typer.Option(help="How callbacks are signed: a (HMAC), b or c (plain secret), none.")
    ] = "a",
    seed: Annotated[int | None, typer.Option(help="Makes a run repeatable.")] = None,
) -> None:
    """Play the provider: BFL under /v1, GPTProto under /flux/v1, any key but `bad`."""
    typer.echo(f"The twin on http://{host}:{port}")
    server(build(ready_after, profile, seed), host, port).run()
