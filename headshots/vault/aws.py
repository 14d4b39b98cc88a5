"""What the stores on S3 and KMS share: patient clients, and errors in the vault's own words."""

from typing import Any, Final

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from headshots.vault.errors import StoreAway

# Three attempts within seconds: a request of a customer waits for them, and the purge comes again anyway.
_CONFIG: Final = {
    "connect_timeout": 5,
    "read_timeout": 20,
    "retries": {"mode": "standard", "total_max_attempts": 3},
}


def client(service: str, endpoint_url: str | None = None, **options: Any) -> Any:
    """A client with the credentials and region of boto3's usual chain; `options` go to botocore's Config."""
    return boto3.client(service, endpoint_url=endpoint_url, config=Config(**_CONFIG, **options))


def code_of(error: ClientError | BotoCoreError) -> str:
    """The service's code for a refusal, or the class of what went wrong on the way to it."""
    return str(error.response["Error"]["Code"]) if isinstance(error, ClientError) else type(error).__name__


def away(what: str, error: ClientError | BotoCoreError) -> StoreAway:
    """The error to raise when `what` could not be done, with the code and the id the provider asks for."""
    answer = error.response["ResponseMetadata"] if isinstance(error, ClientError) else {}
    return StoreAway(f"{what}: {code_of(error)} (request {answer.get('RequestId', 'without an id')})")
