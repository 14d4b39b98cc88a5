"""The pause between both looks of a deletion: in production it outlasts what may still be on its way."""

import pytest

from headshots.env import Environment, embedded_defaults


def left(**values: str) -> bool:
    """Whether production would refuse the pause."""
    return "PURGE_SETTLE_SECONDS" in embedded_defaults(Environment.model_validate(values))


@pytest.mark.parametrize("seconds", ["2", "119.9"])
def test_with_a_bucket_production_refuses_a_pause_that_a_write_outlasts(seconds: str) -> None:
    assert left(BLOB_STORE="s3://portraits", PURGE_SETTLE_SECONDS=seconds)


def test_with_a_bucket_production_takes_two_minutes() -> None:
    assert not left(BLOB_STORE="s3://portraits", PURGE_SETTLE_SECONDS="120")


def test_the_default_is_refused_with_a_bucket_and_taken_on_a_disk() -> None:
    assert left(BLOB_STORE="s3://portraits")
    assert not left(BLOB_STORE="disk")
