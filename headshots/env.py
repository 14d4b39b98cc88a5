"""The typed environment: every setting, its default and its meaning, in one class.

Every default is the embedded mode: one machine, no server besides our own processes. Secrets may also be
given as files in `HEADSHOTS_SECRETS_DIR`, one file per variable. All mistakes are reported in one message.
"""

import os
from pathlib import Path
from typing import Annotated, Final, Literal

from pydantic import AfterValidator, Field, NonNegativeInt, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

from headshots.services.networks import parse_networks
from pipelines.weights_manifest import KEYS

# A write to a bucket may end 75 s after it began: three tries, each 5 s to connect and 20 s to wait.
BUCKET_SETTLE_SECONDS: Final = 120
ROOT = Path(__file__).resolve().parent.parent


def parse_licences(text: str) -> dict[str, str]:
    """The licences of "antelopev2=contract of 2026-05, instantid=letter of 2026-06", by the weights' key.

    Raises ValueError for weights that the manifest does not have, and for a licence without words.
    """
    licences = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        key, _, words = (part.strip() for part in entry.partition("="))
        if key not in KEYS:
            raise ValueError(f"{key!r} is none of the weights: {', '.join(KEYS)}")
        if not words:
            raise ValueError(f"{key} needs a word on its licence, as in {key}=contract of 2026-05")
        licences[key] = words
    return licences


def _networks(text: str) -> str:
    parse_networks(text)
    return text


def _licences(text: str) -> str:
    parse_licences(text)
    return text


class Environment(BaseSettings):
    """What `headshots.settings` reads. The README's configuration table is made from these descriptions."""

    model_config = SettingsConfigDict(
        env_file=None,
        extra="ignore",
        secrets_dir=os.environ.get("HEADSHOTS_SECRETS_DIR"),
        populate_by_name=True,
    )

    env: Literal["embedded", "production"] = Field(
        "embedded",
        alias="HEADSHOTS_ENV",
        description="`production` turns every remaining embedded default into a start-up error",
    )
    data: Path = Field(
        ROOT / ".data",
        alias="HEADSHOTS_DATA",
        description="folder of everything written at run time, mode 0700",
    )
    debug: bool = Field(
        False, alias="HEADSHOTS_DEBUG", description="Django's debug pages; refused in production"
    )
    secret_key: str = Field(
        "",
        alias="SECRET_KEY",
        description="signs sessions and forms; made and kept under the data folder if empty",
    )
    allowed_hosts: str = Field(
        "localhost,127.0.0.1,[::1]", alias="ALLOWED_HOSTS", description="host names served, comma separated"
    )
    site_url: str = Field(
        "http://localhost:8000", alias="SITE_URL", description="public address, used in links and receipts"
    )
    database_url: str = Field(
        "",
        alias="DATABASE_URL",
        description="`postgres://user:password@host:port/name`; empty: SQLite in the data folder",
    )
    broker_url: str = Field(
        "", alias="BROKER_URL", description="`redis://…` or `amqp://…`; empty: Celery's filesystem broker"
    )
    root_keys: Path | None = Field(
        None,
        alias="ROOT_KEYS",
        description="file of root keys, newest first, 64 hex digits a line; empty: made once",
    )
    receipt_key: Path | None = Field(
        None,
        alias="RECEIPT_KEY",
        description="file from `manage.py receipt-key`; signs receipts and checkpoints; empty: made once",
    )
    picture_key: Path | None = Field(
        None,
        alias="PICTURE_KEY",
        description="file of a P-256 key in PEM; signs what pictures say of themselves; empty: made once",
    )
    picture_certificate: Path | None = Field(
        None,
        alias="PICTURE_CERTIFICATE",
        description="file of its certificate, then its issuers', in PEM; empty: made once, says DEVELOPMENT",
    )
    blob_store: str = Field(
        "disk",
        alias="BLOB_STORE",
        pattern=r"^(disk|s3://.+)$",
        description="`disk`: the data folder, for one machine; `s3://bucket/prefix`: a bucket (extra `aws`)",
    )
    s3_endpoint_url: str = Field(
        "",
        alias="S3_ENDPOINT_URL",
        description="address of an S3 store of your own; empty: Amazon's. Credentials: boto3's usual chain",
    )
    epoch_store: str = Field(
        "file",
        alias="EPOCH_STORE",
        pattern=r"^(file|memory|kms|(rediss?|unix)://.+)$",
        description=(
            "where the hourly keys live: `file` (one machine), `redis://…` (one without persistence),"
            " `kms` (extra `aws`), `memory` (one process; refused in production)"
        ),
    )
    engine: Literal["preview", "instantid"] = Field(
        "preview", alias="ENGINE", description="which engine makes the pictures: `preview` or `instantid`"
    )
    weights: Path | None = Field(
        None,
        alias="WEIGHTS",
        description="folder of the weights (`manage.py weights fetch`); for `instantid`",
    )
    device: Literal["cuda", "cpu"] = Field(
        "cuda", alias="DEVICE", description="where `instantid` renders, `cuda` or `cpu`; never falls back"
    )
    slots: PositiveInt = Field(
        8,
        alias="SLOTS",
        description="pictures one `instantid` worker renders at once; small orders get some places more",
    )
    weights_licences: Annotated[str, AfterValidator(_licences)] = Field(
        "",
        alias="WEIGHTS_LICENCES",
        description=(
            "for `instantid`: the licences you hold for weights that are not free for commercial use,"
            " `antelopev2=contract of 2026-05, instantid=…`; without them premium is not sold, and in"
            " production no worker starts"
        ),
    )
    free_work: NonNegativeInt = Field(
        500,
        alias="FREE_WORK",
        description=(
            "what a free order costs its sender: this many to twice as many key derivations, 1 to 3 ms each;"
            " 0 asks for none"
        ),
    )
    free_per_hour: PositiveInt = Field(
        6, alias="FREE_PER_HOUR", description="free orders of one network (IPv4 address, IPv6 /64) in an hour"
    )
    free_per_day: PositiveInt = Field(20, alias="FREE_PER_DAY", description="the same in a UTC day")
    free_per_address: PositiveInt = Field(
        10,
        alias="FREE_PER_ADDRESS",
        description="free orders that one mail address may be given for in a UTC day",
    )
    premium_per_hour: PositiveInt = Field(
        12,
        alias="PREMIUM_PER_HOUR",
        description="premium orders of one network in an hour, whether they are paid later or not",
    )
    premium_per_day: PositiveInt = Field(40, alias="PREMIUM_PER_DAY", description="the same in a UTC day")
    trusted_proxies: Annotated[str, AfterValidator(_networks)] = Field(
        "",
        alias="TRUSTED_PROXIES",
        description=(
            "networks of your own proxies, comma separated: their `X-Forwarded-For` says where customers"
            " come from; empty: nobody's does"
        ),
    )
    payments: Literal["test", "stripe"] = Field(
        "test",
        alias="PAYMENTS",
        description="which provider takes the money: `test` (no money, refused in production) or `stripe`",
    )
    stripe_secret_key: str = Field(
        "",
        alias="STRIPE_SECRET_KEY",
        pattern=r"^$|^(sk|rk)_(test|live)_\w+$",
        description="for `stripe`: `sk_live_…` or `rk_live_…`; test keys are refused in production",
    )
    stripe_webhook_secret: str = Field(
        "",
        alias="STRIPE_WEBHOOK_SECRET",
        pattern=r"^$|^whsec_\w+$",
        description="for `stripe`: the signing secret `whsec_…` of the endpoint `SITE_URL/webhooks/stripe`",
    )
    stripe_api_base: str = Field(
        "",
        alias="STRIPE_API_BASE",
        pattern=r"^$|^https?://[A-Za-z0-9.-]+(:\d+)?$",
        description="a stand-in for Stripe's API, for tests; refused in production and with live keys",
    )
    mail_server: str = Field(
        "",
        alias="MAIL_SERVER",
        pattern=r"^$|^smtp(s|\+plain)?://",
        description=(
            "`smtp://user:password@host:587` (STARTTLS) or `smtps://…:465`; `smtp+plain://` without"
            " encryption, in production on this machine alone; empty: mails are printed, address and all"
        ),
    )
    mail_from: str = Field(
        "headshots@localhost", alias="MAIL_FROM", description="the address that mails come from"
    )
    port: PositiveInt = Field(8000, alias="PORT", description="port of `infra/dev up`")
    web_threads: PositiveInt = Field(8, alias="WEB_THREADS", description="threads of the web process")
    worker_processes: PositiveInt = Field(
        2, alias="WORKER_PROCESSES", description="processes of the embedded Celery worker"
    )
    sandbox_filter: Literal["required", "optional"] = Field(
        "required",
        alias="SANDBOX_FILTER",
        description="`optional` decodes photos even if the kernel refuses the decoder's system call filter",
    )
    lease_seconds: PositiveFloat = Field(
        60,
        alias="LEASE_SECONDS",
        description="how long a worker may be silent before its shot is given to another; 30 at least where "
        "workers are on several machines",
    )
    stuck_seconds: PositiveFloat = Field(
        120,
        alias="STUCK_SECONDS",
        description="how long an engine may stand still before its shots are given to another worker",
    )
    settle_seconds: PositiveFloat = Field(
        2,
        alias="PURGE_SETTLE_SECONDS",
        description=(
            "pause between the two listings that prove an order is gone; with a bucket, production wants 120,"
            " since a write that was given up may still end"
        ),
    )


def read_environment() -> Environment:
    """The environment as typed values. Raises pydantic's ValidationError naming every wrong one."""
    return Environment.model_validate({})


def embedded_defaults(environment: Environment) -> list[str]:
    """The variables that still hold an embedded default which production must not run on."""
    embedded = {
        "SECRET_KEY": not environment.secret_key,
        "DATABASE_URL": not environment.database_url,
        "BROKER_URL": not environment.broker_url,
        "ROOT_KEYS": environment.root_keys is None,
        "RECEIPT_KEY": environment.receipt_key is None,
        "PICTURE_KEY": environment.picture_key is None,
        "PICTURE_CERTIFICATE": environment.picture_certificate is None,
        "EPOCH_STORE": environment.epoch_store == "memory",
        "PURGE_SETTLE_SECONDS": environment.blob_store != "disk"
        and environment.settle_seconds < BUCKET_SETTLE_SECONDS,
        "ENGINE": environment.engine == "preview",
        "PAYMENTS": environment.payments == "test",
        "STRIPE_SECRET_KEY": "_test_" in environment.stripe_secret_key[:8],
        "STRIPE_API_BASE": bool(environment.stripe_api_base),
        "MAIL_SERVER": not environment.mail_server,
        "MAIL_FROM": "@localhost" in environment.mail_from,
        "SITE_URL": not environment.site_url.startswith("https://"),
        "ALLOWED_HOSTS": "localhost" in environment.allowed_hosts,
        "HEADSHOTS_DEBUG": environment.debug,
    }
    return [name for name, is_embedded in embedded.items() if is_embedded]


def payment_problem(environment: Environment) -> str:
    """What is wrong with the settings of the payments taken together; empty when nothing is."""
    given = {
        "STRIPE_SECRET_KEY": environment.stripe_secret_key,
        "STRIPE_WEBHOOK_SECRET": environment.stripe_webhook_secret,
        "STRIPE_API_BASE": environment.stripe_api_base,
    }
    if environment.payments == "test":
        left = [name for name, value in given.items() if value]
        return f"PAYMENTS=test takes no money, but these are set: {', '.join(left)}" if left else ""
    missing = [name for name in ("STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET") if not given[name]]
    if missing:
        return f"PAYMENTS=stripe needs {' and '.join(missing)}"
    if environment.stripe_api_base and is_live(environment):
        return "STRIPE_API_BASE would be given a live STRIPE_SECRET_KEY"
    return ""


def is_live(environment: Environment) -> bool:
    """Whether real money is taken."""
    return "_live_" in environment.stripe_secret_key[:8]
