"""Epoch keys in KMS alone: what is imported and what is asked, what expires, and what a race leaves."""

import hashlib
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from headshots.vault.cache import OrderKeys
from headshots.vault.envelope import Role
from headshots.vault.epochs_kms import KmsEpochs
from headshots.vault.epochs_ring import MemoryShelf, RingEpochs
from headshots.vault.errors import KeyGone, StoreAway, Unreadable
from headshots.vault.keys import OrderKeyName, epoch_of, new_order_key, not_after_of
from tests.vault import moto_gaps
from tests.vault.conftest import RING
from tests.vault.servers import Answer, Proxy, Request, Rule, aws_client, closed_port

pytestmark = pytest.mark.slow

KEY = bytes(range(1, 33))
ORDER = UUID("0190a0b0c0d07000800000000000000a")


@pytest.fixture
def now() -> datetime:
    return datetime.now(UTC)


@pytest.fixture
def name(now: datetime) -> OrderKeyName:
    epoch = epoch_of(now)
    return OrderKeyName(order_id=ORDER, role=Role.RESULTS, epoch=epoch, not_after=not_after_of(epoch))


@pytest.fixture
def far(kms: Any, proxy: Proxy) -> KmsEpochs:
    """A store whose requests go through the proxy."""
    return KmsEpochs(aws_client("kms", proxy.url))


def alias(name: OrderKeyName) -> str:
    return f"alias/headshots/epoch-{name.epoch}"


def states(kms: Any) -> Counter[str]:
    """How many of the keys we made are in which state."""
    ids = [key["KeyId"] for key in kms.list_keys()["Keys"]]
    keys = [kms.describe_key(KeyId=key_id)["KeyMetadata"] for key_id in ids]
    return Counter(key["KeyState"] for key in keys if key["Origin"] == "EXTERNAL")


def our_aliases(kms: Any) -> list[str]:
    names = [each["AliasName"] for each in kms.list_aliases()["Aliases"]]
    return [each for each in names if each.startswith("alias/headshots/")]


def refusing(code: str, *, action: str, status: int = 400) -> Rule:
    """Refuses one operation and sends every other on."""

    def rule(request: Request, forward: Any) -> Answer:
        body = f'{{"__type": "{code}", "message": "no"}}'.encode()
        return Answer(status=status, body=body) if request.action == action else forward(request)

    return rule


def test_material_is_imported_to_end_with_the_epoch(kms: Any, name: OrderKeyName, now: datetime) -> None:
    KmsEpochs(kms).wrap(KEY, name, now)

    key = kms.describe_key(KeyId=alias(name))["KeyMetadata"]
    assert (key["Origin"], key["KeyState"]) == ("EXTERNAL", "Enabled")
    assert moto_gaps.end_of_material(key["KeyId"]) == name.not_after
    assert our_aliases(kms) == [alias(name)]


def test_wrapped_key_is_a_header_of_suite_two_and_what_kms_answered(
    kms: Any, name: OrderKeyName, now: datetime
) -> None:
    wrapped = KmsEpochs(kms).wrap(KEY, name, now)

    arn = kms.describe_key(KeyId=alias(name))["KeyMetadata"]["Arn"]
    key_id = hashlib.sha256(b"headshots/v1 kms kid\0" + arn.encode()).digest()[:8]
    assert wrapped[:16] == b"HSW1\x02\x02\0\0" + key_id
    context = {
        "order": "0190a0b0c0d07000800000000000000a",
        "role": "results",
        "epoch": str(name.epoch),
        "not_after": str(name.epoch * 3600 + 86400),
    }
    answer = kms.decrypt(CiphertextBlob=wrapped[16:], EncryptionContext=context, KeyId=alias(name))
    assert answer["Plaintext"] == KEY
    for field in context:
        with pytest.raises(kms.exceptions.InvalidCiphertextException):
            kms.decrypt(
                CiphertextBlob=wrapped[16:],
                EncryptionContext={**context, field: "1"},
                KeyId=alias(name),
            )


def test_keys_of_the_two_suites_do_not_open_each_others_orders(
    kms: Any, name: OrderKeyName, now: datetime
) -> None:
    in_kms, in_memory = KmsEpochs(kms), RingEpochs(MemoryShelf(), RING)
    of_kms, of_memory = (store.wrap(KEY, name, now) for store in (in_kms, in_memory))

    for store, foreign in ((in_kms, of_memory), (in_memory, of_kms)):
        with pytest.raises(Unreadable):
            store.unwrap(foreign, name)


def test_expired_material_is_gone_without_anybody_asking(kms: Any, name: OrderKeyName, now: datetime) -> None:
    store = KmsEpochs(kms)
    wrapped = store.wrap(KEY, name, now)
    moto_gaps.Clock.ahead = name.not_after - now

    with pytest.raises(KeyGone):
        store.unwrap(wrapped, name)
    with pytest.raises(StoreAway):
        store.wrap(KEY, name, now)  # a clock of ours that stands still makes no second key
    assert store.epochs() == []
    assert store.destroy_due(name.not_after) == [name.epoch]
    assert states(kms) == {"PendingDeletion": 1}
    assert store.destroy_due(name.not_after) == []


def test_destroyed_key_has_lost_its_material_and_waits_for_its_deletion(
    kms: Any, name: OrderKeyName, now: datetime
) -> None:
    store = KmsEpochs(kms)
    wrapped = store.wrap(KEY, name, now)

    store.destroy(name.epoch)

    assert states(kms) == {"PendingDeletion": 1}
    key_id = kms.describe_key(KeyId=alias(name))["KeyMetadata"]["KeyId"]
    assert moto_gaps.end_of_material(key_id) is None
    kms.cancel_key_deletion(KeyId=key_id)
    kms.enable_key(KeyId=key_id)
    with pytest.raises(Unreadable):
        store.unwrap(wrapped, name)


def test_destruction_that_broke_off_is_finished_at_the_next_pass(
    kms: Any, proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime
) -> None:
    wrapped = far.wrap(KEY, name, now)
    proxy.rule = refusing("ThrottlingException", action="ScheduleKeyDeletion")
    with pytest.raises(StoreAway, match="ThrottlingException"):
        far.destroy_due(name.not_after)
    assert states(kms) == {"PendingImport": 1}
    with pytest.raises(KeyGone):
        far.unwrap(wrapped, name)

    proxy.rule = lambda request, forward: forward(request)

    assert far.destroy_due(name.not_after) == [name.epoch]
    assert states(kms) == {"PendingDeletion": 1}


def test_pass_with_nothing_new_asks_kms_once(
    proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime
) -> None:
    far.wrap(KEY, name, now)
    far.destroy_due(name.not_after)
    proxy.seen.clear()

    far.destroy_due(name.not_after + timedelta(minutes=1))

    assert [request.action for request in proxy.seen] == ["ListAliases"]


def test_alias_of_a_destroyed_epoch_is_removed_a_day_after_its_end(
    kms: Any, name: OrderKeyName, now: datetime
) -> None:
    store = KmsEpochs(kms)
    store.wrap(KEY, name, now)
    day = timedelta(days=1)

    store.destroy_due(name.not_after + day - timedelta(seconds=1))
    assert our_aliases(kms) == [alias(name)]
    store.destroy_due(name.not_after + day)

    assert our_aliases(kms) == []
    assert states(kms) == {"PendingDeletion": 1}


def test_of_two_who_remove_an_alias_at_once_both_go_on_with_the_next(
    kms: Any, proxy: Proxy, far: KmsEpochs, name: OrderKeyName
) -> None:
    """The other one removes each alias between our listing and our request."""
    far.destroy(name.epoch)
    far.destroy(name.epoch + 1)

    def rule(request: Request, forward: Any) -> Answer:
        if request.action == "DeleteAlias":
            forward(request)
        return forward(request)

    proxy.rule = rule
    far.destroy_due(not_after_of(name.epoch + 1) + timedelta(days=1))

    assert our_aliases(kms) == []


def test_an_alias_that_may_not_be_removed_is_an_error(
    kms: Any, proxy: Proxy, far: KmsEpochs, name: OrderKeyName
) -> None:
    far.destroy(name.epoch)
    proxy.rule = refusing("AccessDeniedException", action="DeleteAlias")

    with pytest.raises(StoreAway):
        far.destroy_due(name.not_after + timedelta(days=1))

    assert our_aliases(kms) == [alias(name)]


def test_losers_of_a_race_leave_no_usable_key(kms: Any, name: OrderKeyName, now: datetime) -> None:
    barrier = threading.Barrier(4)
    stores = [KmsEpochs(kms) for _ in range(4)]

    def ask(store: KmsEpochs) -> bytes:
        barrier.wait()
        return store.wrap(KEY, name, now)

    with ThreadPoolExecutor(4) as pool:
        wrapped = list(pool.map(ask, stores))

    assert {stores[0].unwrap(each, name) for each in wrapped} == {KEY}
    left = states(kms)
    assert left.pop("Enabled") == 1
    assert set(left) <= {"PendingDeletion"}


@pytest.mark.parametrize("action", ["GetParametersForImport", "ImportKeyMaterial", "CreateAlias"])
def test_key_whose_making_broke_off_is_erased_and_never_used(
    kms: Any, proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime, action: str
) -> None:
    proxy.rule = refusing("KMSInternalException", action=action, status=500)

    with pytest.raises(StoreAway, match=r"KMSInternalException \(request REQ123\)"):
        far.wrap(KEY, name, now)

    assert our_aliases(kms) == []
    assert states(kms) == {"PendingDeletion": 1}
    proxy.rule = lambda request, forward: forward(request)
    assert far.unwrap(far.wrap(KEY, name, now), name) == KEY


@pytest.mark.parametrize(
    ("code", "status"),
    [("ThrottlingException", 400), ("AccessDeniedException", 400), ("DisabledException", 400), ("Down", 503)],
)
def test_kms_that_refuses_is_away_and_names_code_and_request(
    proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime, code: str, status: int
) -> None:
    wrapped = far.wrap(KEY, name, now)

    def rule(request: Request, forward: Any) -> Answer:
        return refusing(code, action=request.action, status=status)(request, forward)

    proxy.rule = rule

    for operation in (
        lambda: far.wrap(KEY, name, now),
        lambda: far.unwrap(wrapped, name),
        lambda: far.destroy(name.epoch),
        lambda: far.destroy_due(now),
        far.epochs,
        lambda: KmsEpochs(aws_client("kms", proxy.url)),
    ):
        with pytest.raises(StoreAway, match=rf"KMS \w+: {code} \(request REQ123\)"):
            operation()


def test_kms_that_nobody_answers_for_is_away() -> None:
    with pytest.raises(StoreAway, match="EndpointConnectionError"):
        KmsEpochs(aws_client("kms", f"http://127.0.0.1:{closed_port()}"))


def test_order_costs_two_encryptions_and_a_decryption_for_each_role_and_minute(
    proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime
) -> None:
    far.wrap(KEY, name, now)  # the hour's key is there
    proxy.seen.clear()
    seconds = 0.0
    cache = OrderKeys(lambda: far, clock=lambda: seconds)
    wrapped = {
        role: new_order_key(far, order_id=ORDER, role=role, epoch=name.epoch, now=now) for role in Role
    }

    def read(role: Role) -> None:
        with cache.opened(
            wrapped[role],
            order_id=ORDER,
            role=role,
            epoch=name.epoch,
            not_after=name.not_after,
            generation=1,
        ):
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(read, [Role.SELFIES, Role.RESULTS] * 50))
    assert Counter(request.action for request in proxy.seen) == {"Encrypt": 2, "Decrypt": 2}

    seconds = 60.0
    read(Role.RESULTS)
    assert Counter(request.action for request in proxy.seen) == {"Encrypt": 2, "Decrypt": 3}


def test_no_request_but_the_order_keys_own_carries_a_key(
    proxy: Proxy, far: KmsEpochs, name: OrderKeyName, now: datetime
) -> None:
    """The material leaves this process once, under KMS's public key, and is held nowhere afterwards."""
    far.wrap(KEY, name, now)

    imports = [request for request in proxy.seen if request.action == "ImportKeyMaterial"]
    assert len(imports) == 1
    assert len(moto_gaps.sent_material(imports[0].body)) == 512  # RSA-4096
    assert [value for value in vars(far).values() if isinstance(value, (bytes, bytearray))] == []
