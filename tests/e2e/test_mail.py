"""Mail of the real service: its own processes, a mail server on the loopback, nothing left in a file."""

import re
from pathlib import Path

import pytest

from pipelines.sample import sample_selfie
from tests.e2e.service import PATIENCE_SECONDS, running, wait_for
from tests.services.smtp_server import MailServer, mail_server
from tests.services.world import files_with

pytestmark = pytest.mark.slow

ADDRESS = "ada.lovelace-canary@example.org"


def subjects(server: MailServer) -> list[str]:
    return [re.findall(r"^Subject: (.*)$", message, re.MULTILINE)[0] for _, message in server.received]


def test_an_orders_mails_go_out_by_themselves_and_its_address_is_in_no_file(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir(mode=0o700)
    with (
        mail_server() as server,
        running(
            tmp_path / "data",
            MAIL_SERVER=f"smtp+plain://127.0.0.1:{server.port}",
            MAIL_FROM="Headshots <hello@headshots.example>",
            WORKER_PROCESSES="1",
        ) as service,
    ):
        order = service.client.place(sample_selfie(), tier="free", email=ADDRESS)
        final = [*service.client.watch(order, timeout_seconds=PATIENCE_SECONDS)][-1]
        assert final["state"] == "ready"
        wait_for(lambda: len(server.received) == 2)
        receipt_id = service.client.delete(order)
        wait_for(lambda: len(server.received) == 3)
        wait_for(lambda: service.client.receipt(receipt_id)["state"] == "purged")

    assert subjects(server) == [
        "Your headshots: order placed",
        "Your headshots are ready",
        "Your headshots are deleted",
    ]
    assert {recipient for recipients, _ in server.received for recipient in recipients} == {ADDRESS}
    placed, ready, deleted = (message for _, message in server.received)
    assert f"#{order['token']}" in placed
    assert f"#{order['token']}" in ready
    assert f"{service.client.base_url}/receipts/{receipt_id}" in deleted
    assert order["token"] not in deleted
    for secret in (ADDRESS, "lovelace-canary", order["token"]):
        assert files_with(tmp_path, secret.encode()) == []
