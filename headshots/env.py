"""The typed environment: every setting, its default and its meaning, in one class.

Every default is the embedded mode: one machine, no server besides our own processes. Secrets may also be
given as files in `HEADSHOTS_SECRETS_DIR`, one file per variable. All mistakes are reported in one message.
"""

import os
from pathlib import Path
from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt
from pydantic_settings import BaseSettings, SettingsConfigDict

ROOT = Path(__file__).resolve().parent.parent


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
        8, alias="SLOTS", description="pictures that one `instantid` worker has in flight at once"
    )
    payments: Literal["test"] = Field("test", alias="PAYMENTS", description="which provider takes the money")
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
        description="how long a worker may be silent before its shot is given to another",
    )
    settle_seconds: PositiveFloat = Field(
        2,
        alias="PURGE_SETTLE_SECONDS",
        description="pause between the two listings that prove an order is gone",
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
        "EPOCH_STORE": environment.epoch_store == "memory",
        "ENGINE": environment.engine == "preview",
        "PAYMENTS": environment.payments == "test",
        "SITE_URL": not environment.site_url.startswith("https://"),
        "ALLOWED_HOSTS": "localhost" in environment.allowed_hosts,
        "HEADSHOTS_DEBUG": environment.debug,
    }
    return [name for name, is_embedded in embedded.items() if is_embedded]
