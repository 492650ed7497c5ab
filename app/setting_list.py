"""The list of the settings: name, type, limits, default and description of each."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, Field

from app.config_file import BFL_URL, GPTPROTO_URL
from app.setting_types import (
    LOOPBACK,
    AdminKey,
    Budget,
    Contact,
    Hosts,
    Networks,
    ProviderKey,
    ProxyUrl,
    Secrets,
    TrustedNetworks,
    Url,
)

_MAX_AWAIT_EVIDENCE_S = 31 * 86_400


class SettingList(BaseModel):
    """All settings. Each is read from an environment variable with the prefix `FLUXHOOK_`."""

    database_url: Annotated[
        str | None,
        # The URL may contain a password, so it is not shown.
        Field(
            repr=False, description="The database: `sqlite:///PATH` or `postgresql://...`. Default: SQLite in DATA_DIR."
        ),
    ] = None
    database_direct_url: Annotated[
        str | None,
        Field(
            repr=False,
            description="The database's address past a connection pooler, for LISTEN and migrations. Default: none.",
        ),
    ] = None
    statement_seconds: Annotated[
        int,
        Field(ge=1, description="Seconds for a statement or a commit on PostgreSQL; ten times as many to migrate."),
    ] = 30
    data_dir: Annotated[Path, Field(description="The folder for the SQLite database, images and generated keys.")] = (
        Path("data")
    )
    store_url: Annotated[
        str | None,
        Field(description="The image store: a folder, or `s3://`, `gs://`, `az://`. Default: `images` in DATA_DIR."),
    ] = None
    public_url: Annotated[
        Url | None,
        Field(description="The URL at which the provider reaches this service. Without it, Fluxhook polls."),
    ] = None
    provider: Annotated[
        Literal["bfl", "gptproto"],
        Field(description="The image provider: `bfl` (Black Forest Labs) or `gptproto` (GPTProto)."),
    ] = "bfl"
    bfl_api_key: Annotated[ProviderKey | None, Field(description="The API key for Black Forest Labs.")] = None
    bfl_base_url: Annotated[
        Url,
        Field(description="The base URL of the Black Forest Labs API: the global host, a regional host, or a twin."),
    ] = BFL_URL
    gptproto_api_key: Annotated[ProviderKey | None, Field(description="The API key for GPTProto.")] = None
    gptproto_base_url: Annotated[
        Url, Field(description="The base URL of the GPTProto API, or of a reseller with the same path layout.")
    ] = GPTPROTO_URL
    secret_keys: Annotated[
        Secrets,
        Field(description="Keys for secrets and tokens, newest first. SQLite default: generated, saved in DATA_DIR."),
    ] = ()
    admin_key: Annotated[
        AdminKey | None,
        Field(description="An API key with full access. SQLite default: generated, printed once, saved in DATA_DIR."),
    ] = None
    shared_secret_callbacks: Annotated[
        Literal["accept", "hint"],
        Field(
            description="The secret in a header proves a callback (`accept`), or only triggers a poll (`hint`): "
            "as BFL sends no other proof, every task is then polled."
        ),
    ] = "accept"  # noqa: S105 - a choice, not a secret
    send_webhook_secret: Annotated[
        bool,
        Field(
            description="Send the secret of an application along with its webhooks, in `X-Webhook-Secret`, as BFL does."
        ),
    ] = True
    hold_seconds: Annotated[
        int | None,
        Field(
            ge=0,
            le=_MAX_AWAIT_EVIDENCE_S,
            description="Seconds to wait for a callback after a lost submit answer. "
            "Default: the longest time of the model and 156.",
        ),
    ] = None
    result_hosts: Annotated[
        Hosts,
        Field(
            description="If set, the only hosts besides the provider's that results may come from: `name` or `*.name`."
        ),
    ] = ()
    egress_allow: Annotated[
        Networks,
        Field(description="Private networks that URLs of input images, webhooks and results may point to, as CIDRs."),
    ]
    ca_file: Annotated[
        Path | None,
        Field(description="A PEM file of authorities that outgoing requests trust in addition to the public ones."),
    ] = None
    https_proxy: Annotated[
        ProxyUrl | None,
        Field(description="The proxy for requests to public hosts: `http://[USER:PASSWORD@]HOST:PORT`, or `https://`."),
    ] = None
    contact: Annotated[
        Contact | None,
        Field(
            description="A URL or e-mail address, sent to hosts of input images as the contact. Default: PUBLIC_URL."
        ),
    ] = None
    link_days: Annotated[
        int, Field(ge=1, le=3650, description="Days for which an image link that needs no API key is valid.")
    ] = 7
    links: Annotated[
        Literal["fluxhook", "presigned"],
        Field(
            description="Where links to images lead: to this service, or `presigned` to the bucket, for at most 7 days."
        ),
    ] = "fluxhook"
    budget: Annotated[
        Budget | None,
        Field(
            description="The credits that all applications together may spend, such as `400/day`. Default: no limit."
        ),
    ] = None
    unpriced_credits: Annotated[
        float, Field(ge=0, description="Credits to reserve for a task of a model without a price in the catalog.")
    ] = 10
    limit_queued: Annotated[int, Field(ge=0, description="Maximum number of queued tasks of an application.")] = 10_000
    limit_posts_per_minute: Annotated[
        int | None, Field(ge=0, description="Tasks that an application may post in a minute. Default: no limit.")
    ] = None
    limit_uploads: Annotated[
        int, Field(ge=1, description="Bodies above 64 KB that a process receives from an application at once.")
    ] = 16
    limit_streams: Annotated[
        int, Field(ge=0, description="Event streams that a process serves to an application at once.")
    ] = 100
    limit_deliveries: Annotated[
        int, Field(ge=1, description="Webhooks that a process sends for an application at once.")
    ] = 16
    limit_tests_per_minute: Annotated[
        int, Field(ge=0, description="Test deliveries that an application may ask for in a minute.")
    ] = 30
    limit_priority: Annotated[
        int, Field(ge=0, le=9, description="The highest priority that an application may give a task.")
    ] = 0
    image_days: Annotated[
        int,
        Field(ge=0, le=36_500, description="Days for which the image of a finished task is kept. 0: without limit."),
    ] = 0
    input_days: Annotated[
        int,
        Field(
            ge=0,
            le=36_500,
            description="Days for which the input images of a finished task are kept. 0: without limit.",
        ),
    ] = 0
    evidence_days: Annotated[
        int,
        Field(
            ge=0,
            le=36_500,
            description="Days for which the evidence and the deliveries of a finished task are kept. 0: without limit.",
        ),
    ] = 90
    task_days: Annotated[
        int,
        Field(
            ge=0,
            le=36_500,
            description="Days for which a finished task is kept, with all that belongs to it. 0: without limit.",
        ),
    ] = 0
    models_file: Annotated[
        Path | None,
        Field(description="A JSON or TOML file whose rows add models or replace those that ship. Default: none."),
    ] = None
    unknown_models: Annotated[
        Literal["refuse", "pass"],
        Field(
            description="Models without a row at the provider-compatible API: `refuse`, or `pass` them to the provider."
        ),
    ] = "refuse"
    config: Annotated[
        Path | None,
        Field(description="A TOML file with what one variable cannot hold, such as several accounts. Default: none."),
    ] = None
    join_seconds: Annotated[
        int,
        Field(
            ge=0,
            le=86_400,
            description="Seconds for which an identical request joins the tasks of one whose answer was not delivered. "
            "0: never.",
        ),
    ] = 900
    openai_wait_seconds: Annotated[
        int,
        Field(
            ge=1, le=3600, description="Seconds for which the API in OpenAI's form holds a request, then it gets 504."
        ),
    ] = 55
    openai_keepalive_seconds: Annotated[
        int | None,
        Field(
            ge=1,
            le=600,
            description="Seconds between spaces that it sends meanwhile, so that no proxy cuts. Then the status is "
            "always 200, and an error is in the body. Default: none are sent.",
        ),
    ] = None
    trusted_proxies: Annotated[
        TrustedNetworks,
        Field(description="Addresses or networks of proxies whose `X-Forwarded-For` and `X-Forwarded-Proto` count."),
    ] = LOOPBACK
    host: Annotated[str, Field(description="The address to listen on.")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535, description="The port to listen on.")] = 8080
    metrics_port: Annotated[
        int | None,
        Field(
            ge=0, le=65535, description="The port on which `fluxhook work` serves Prometheus metrics. Default: none."
        ),
    ] = None

    max_uploads: Annotated[
        int,
        Field(
            ge=1, description="Maximum number of bodies above 64 KB received at once. Others wait 10 s, then get 503."
        ),
    ] = 32
    max_uploads_mb: Annotated[
        int, Field(ge=1, description="Maximum total size in MB of bodies received at once. They lie in DATA_DIR.")
    ] = 512

    max_connections: Annotated[
        int, Field(ge=1, description="Maximum number of connections. One more ends the one that has waited longest.")
    ] = 1000
    max_head_kb: Annotated[
        int, Field(ge=1, description="Maximum size of a request's head in KB, trailers included.")
    ] = 16
    max_headers: Annotated[int, Field(ge=1, description="Maximum number of headers of a request.")] = 100
    head_seconds: Annotated[int, Field(ge=1, description="Seconds in which the head of a request must arrive.")] = 15
    stall_seconds: Annotated[
        int,
        Field(ge=1, description="Seconds for which a client may stop in a body; ten times as many for reading."),
    ] = 30
    min_body_rate_kb: Annotated[
        int, Field(ge=1, description="KB per second at which a body must arrive on average, beside STALL_SECONDS.")
    ] = 16
    idle_seconds: Annotated[
        int, Field(ge=1, description="Seconds after which a connection without a request is closed.")
    ] = 75
    disk_reserve_mb: Annotated[
        int | None,
        Field(
            ge=0,
            description="Disk space in MB below which no tasks are accepted. Default: 512, or a tenth of the disk.",
        ),
    ] = None
