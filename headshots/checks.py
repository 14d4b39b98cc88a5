"""Start-up checks: what must hold before the service may hold anybody's photo."""

import sys
from pathlib import Path
from typing import Any, Final

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from headshots.services import credentials, objects, sales
from headshots.vault.errors import BadKeyFile, StoreAway, UnsafeStore
from headshots.vault.picture_keys import load_chain

TAG: Final = "headshots"
ADVICE: Final = "headshots-advice"  # for who sets the service up; a single worker's start does not repeat it
_HANDLER: Final = "headshots.web.uploadhandler.BoundedMemoryUploadHandler"
_HARMLESS: Final[dict[str, tuple[object, ...]]] = {  # sentry-sdk's options; its defaults send the first two
    "include_local_variables": (False,),
    "max_request_body_size": ("never",),
    "send_default_pii": (None, False),
}


@register(TAG)
def data_folder_is_private(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E001 when others than the service's own user can open the data folder."""
    mode = Path(settings.DATA).stat().st_mode & 0o777
    if mode & 0o077:
        return [
            Error(
                f"The data folder has mode {mode:04o}; others can open it.",
                hint=f"chmod 0700 {settings.DATA}",
                id="headshots.E001",
            )
        ]
    return []


@register(TAG)
def uploads_stay_in_memory(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E002 when an upload could reach a temporary file."""
    if list(settings.FILE_UPLOAD_HANDLERS) != [_HANDLER]:
        return [
            Error(
                "FILE_UPLOAD_HANDLERS would write photos to temporary files.",
                hint=f"Leave it at [{_HANDLER!r}].",
                id="headshots.E002",
            )
        ]
    return []


@register(TAG)
def stores_are_fit(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E003 when a store of keys or objects does not answer, or keeps what is deleted from it.

    The embedded ones are made when they are first used and need no look.
    """
    opened = {"EPOCH_STORE": objects.epochs, "BLOB_STORE": objects.blobs}
    found: list[CheckMessage] = []
    for name, open_store in opened.items():
        if getattr(settings, name) in ("file", "memory", "disk"):
            continue
        try:
            open_store()
        except (StoreAway, UnsafeStore, ValueError, ImportError) as error:
            found.append(Error(f"{name}: {error}", hint="See vault/FORMAT.md.", id="headshots.E003"))
    return found


@register(TAG)
def pictures_can_be_signed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E004 when the certificate of pictures is not there, or the key is there and does not fit it.

    Web processes have no use for the key and may be kept without it; a worker without takes no work.
    """
    path, key_path = settings.PICTURE_CERTIFICATE, settings.PICTURE_KEY
    try:
        if path and key_path and not key_path.exists():
            load_chain(path)
        elif path or key_path:
            credentials.key()
    except (BadKeyFile, OSError) as error:
        return [Error(f"PICTURE_CERTIFICATE: {error}", id="headshots.E004")]
    return []


@register(TAG)
def what_is_sold_is_licensed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E005 in production when a network that premium is made with has no commercial licence."""
    problem = sales.problem()
    return [Error(problem, id="headshots.E005")] if problem and settings.IS_PRODUCTION else []


@register(ADVICE)
def what_would_be_sold_is_licensed(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Warning W005 for the same elsewhere: the free tier works without."""
    problem = sales.problem()
    return [Warning(problem, id="headshots.W005")] if problem and not settings.IS_PRODUCTION else []


@register(TAG)
def customers_can_be_told_apart(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E006 in production when no proxy is trusted: its address would be that of every customer.

    Production is reached over https alone, and so through a proxy; all would share one network's free orders.
    """
    if settings.IS_PRODUCTION and not settings.TRUSTED_PROXIES:
        return [
            Error(
                "TRUSTED_PROXIES is empty: all customers would seem to come from your proxy's network.",
                hint="Name the networks that your own proxies connect from, as in 10.0.0.0/8.",
                id="headshots.E006",
            )
        ]
    return []


@register(TAG)
def reports_of_errors_take_no_photo_along(app_configs: Any, **kwargs: Any) -> list[CheckMessage]:
    """Error E007 when sentry-sdk runs in this process, which we never start, and may send photos or tokens.

    A frame's local variables hold keys and pictures, a request's body the photo, its headers the token.
    """
    sentry = sys.modules.get("sentry_sdk")
    client = sentry.get_client() if sentry else None
    if client is None or not client.is_active():
        return []
    options = client.options
    unsafe = [name for name, values in _HARMLESS.items() if options.get(name, values[0]) not in values]
    if (options.get("data_collection") or {}).get("provided_by_user"):  # then it replaces the options above
        unsafe.append("data_collection")
    if not unsafe:
        return []
    return [
        Error(
            f"sentry-sdk would send what nobody may keep: {', '.join(unsafe)}.",
            hint='sentry_sdk.init(include_local_variables=False, max_request_body_size="never")',
            id="headshots.E007",
        )
    ]
