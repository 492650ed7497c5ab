"""`twin`: a stand-in for the provider."""

from typing import Annotated

import typer

from app.cli.process import server
from app.twin import build
from app.twin.rules import Profile


def twin(
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=0, max=65535)] = 8090,
    ready_after: Annotated[float, typer.Option(help="The seconds until an image is ready.", min=0)] = 2.0,
    profile: Annotated[
        Profile, typer.Option(help="The proof of callbacks: b or c (secret in a header, as BFL), a (HMAC), or none.")
    ] = "b",
    seed: Annotated[int | None, typer.Option(help="The seed of task IDs and of images, for a repeatable run.")] = None,
) -> None:
    """Run a stand-in for the provider: BFL at /v1, GPTProto at /flux/v1, with any API key except `bad`."""
    twin_server = server(build(ready_after, profile, seed), host, port)
    twin_server.on_listening = lambda actual_port: typer.echo(f"Fluxhook twin on http://{host}:{actual_port}")
    twin_server.run()
