"""Staff screen of the styles: edited in parts, every change a new version; retired, never deleted."""

from typing import Any, Final

from django.contrib import admin, messages
from django.db import transaction
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from headshots.admin.base import PER_PAGE, ModelAdmin, ModelForm, Table, actor_of, counted
from headshots.admin.style_form import CONTROL_PARTS, StyleForm
from headshots.admin.style_history import contents, history, warning_about, with_recent_orders, words_in
from headshots.models import Style
from headshots.services import styles
from headshots.tiers import TIERS
from pipelines.presets import PROMPT_PARTS, TOKEN_LIMIT, PresetError, tokens_in

_STATUS_BUTTONS: Final = {
    "_publish": (Style.Status.PUBLISHED, "Save and publish"),
    "_retire": (Style.Status.RETIRED, "Save and retire"),
    "_draft": (Style.Status.DRAFT, "Save and take back to draft"),
}
_PROMPT_NOTE: Final = (
    "Short noun phrases; the first ones weigh most. Keep all of them together below 75 tokens: about 45 "
    "words with their commas; each digit counts as a word. They say nothing about who the person is."
)
_NUMBERS_NOTE: Final = (
    "Change one number at a time and look at the result first. Every saved change is a new version; "
    "orders already placed keep theirs."
)
_NUMBERS: Final = (
    ("guidance_scale", "guidance_method"),
    ("num_inference_steps", "scheduler"),
    "framing",
)
_IDENTITY: Final = (
    ("ip_adapter_scale", "controlnet_conditioning_scale"),
    ("control_guidance_end", "negative_identity"),
    "is_face_masked",
)
_IDENTITY_NOTE: Final = (
    "Over-saturated skin: lower ip_adapter_scale first, then controlnet_conditioning_scale. "
    "Not alike enough: raise both. The words are ignored: lower ip_adapter_scale."
)
_EXTRAS_NOTE: Final = (
    "LoRAs and the extra control name files of the weights bundle, which only the GPU workers hold: this "
    "page cannot see whether they are there. The preview engine ignores them."
)


@admin.register(Style)
class StyleAdmin(ModelAdmin[Style]):
    """Styles and, through them, their versions."""

    form = StyleForm
    change_form_template = "admin/headshots/style/change_form.html"
    list_display = (
        "name",
        "slug",
        "status",
        "version",
        "guidance_scale",
        "steps",
        "position",
        "recent_orders",
    )
    list_filter = ("status",)
    list_per_page = list_max_show_all = PER_PAGE
    actions = ("publish", "retire", "take_back")

    # who may do what

    def has_delete_permission(self, request: HttpRequest, obj: Style | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Style | None = None) -> tuple[str, ...]:
        return ("slug", "status_and_version", "prompt_text", "negative_text") if obj else ()

    def get_prepopulated_fields(self, request: HttpRequest, obj: Style | None = None) -> dict[str, Any]:
        return {} if obj else {"slug": ("name",)}

    def get_fieldsets(self, request: HttpRequest, obj: Style | None = None) -> Any:
        about = ["name", "slug", "summary", "position"]
        if obj is not None:
            about.insert(0, "status_and_version")
        assembled = ("As the engine reads it", {"fields": ("prompt_text", "negative_text")})
        if obj is not None and not self.has_change_permission(request, obj):
            return [("Style", {"fields": about}), assembled]
        editable = [
            ("Style", {"fields": [*about, "based_on"]}),
            ("Prompt", {"fields": (*PROMPT_PARTS, "negative_prompt"), "description": _PROMPT_NOTE}),
            ("Numbers", {"fields": _NUMBERS, "description": _NUMBERS_NOTE}),
            ("Identity", {"fields": _IDENTITY, "description": _IDENTITY_NOTE}),
            ("LoRAs", {"fields": ("loras",), "description": _EXTRAS_NOTE}),
            ("Extra control", {"fields": [f"control_{name}" for name in CONTROL_PARTS]}),
        ]
        return editable if obj is None else [*editable, assembled]

    # what the list shows

    def get_queryset(self, request: HttpRequest) -> QuerySet[Style]:
        return with_recent_orders(super().get_queryset(request))

    @admin.display(description="version", ordering="current__number")
    def version(self, style: Style) -> int | None:
        return style.current.number if style.current else None

    @admin.display(ordering="current__guidance_scale")
    def guidance_scale(self, style: Style) -> float | None:
        return style.current.guidance_scale if style.current else None

    @admin.display(description="steps", ordering="current__num_inference_steps")
    def steps(self, style: Style) -> int | None:
        return style.current.num_inference_steps if style.current else None

    @admin.display(description="orders, last 24 h", ordering="recent_orders")
    def recent_orders(self, style: Style) -> int:
        return int(getattr(style, "recent_orders", 0))

    # what the form shows

    @admin.display(description="Status")
    def status_and_version(self, style: Style) -> str:
        return f"{style.status}, version {style.current.number}" if style.current else str(style.status)

    @admin.display(description="Prompt")
    def prompt_text(self, style: Style) -> str:
        if style.current is None:
            return ""
        try:
            return _with_count(style.current.preset().prompt)
        except PresetError as error:
            return format_html(
                "<p class='errornote'>{}. Correct it and save: no order can use it.</p>", error
            )

    @admin.display(description="Negative prompt")
    def negative_text(self, style: Style) -> str:
        return _with_count(style.current.negative_prompt) if style.current else ""

    def render_change_form(
        self,
        request: HttpRequest,
        context: Any,
        add: Any = False,
        change: Any = False,
        form_url: Any = "",
        obj: Any = None,
    ) -> HttpResponse:
        """Django's page with the status buttons and the tables below the form."""
        tables: list[Table] = []
        buttons: list[tuple[str, str]] = []
        if obj is not None:
            tables = [history(obj)]
            if self.has_change_permission(request, obj):
                buttons = [
                    (name, text) for name, (status, text) in _STATUS_BUTTONS.items() if status != obj.status
                ]
            elif obj.current:
                tables.insert(0, contents(obj.current))
        context.update(tables=tables, status_buttons=buttons, show_save_and_add_another=False)
        return super().render_change_form(
            request, context, add=add, change=change, form_url=form_url, obj=obj
        )

    # what saving does

    def save_model(self, request: HttpRequest, obj: Style, form: ModelForm[Style], change: bool) -> None:
        """Save the texts; a new version if a word or number changed; the status if a button asks for it."""
        assert isinstance(form, StyleForm)
        now, actor = timezone.now(), actor_of(request)
        before = obj.current
        with transaction.atomic():
            changed = form.changed_texts()
            if change:
                if changed:
                    styles.describe(obj, changed, actor=actor, now=now)
                version = styles.add_version(obj, form.preset_fields(), actor=actor, now=now)
            else:
                version = styles.create(obj, form.preset_fields(), actor=actor, now=now)
        if version != before:
            messages.success(request, f"Saved {obj.name} as version {version.number}.")
        elif changed:
            messages.success(
                request, f"Saved {', '.join(changed)}. No word or number changed: no new version."
            )
        else:
            messages.info(request, "Nothing was changed, so no new version was made.")
        if warning := warning_about(version.preset().prompt):
            messages.warning(request, f"The prompt is too long. {warning}")
        for button, (status, _) in _STATUS_BUTTONS.items():
            if change and button in request.POST:
                self._set_status(request, [obj], status)

    def response_add(
        self, request: HttpRequest, obj: Style, post_url_continue: str | None = None
    ) -> HttpResponse:
        return HttpResponseRedirect(reverse("admin:headshots_style_change", args=(obj.pk,)))

    def response_change(self, request: HttpRequest, obj: Style) -> HttpResponse:
        """Back to the list, or to this page; save_model has said already what happened."""
        if "_continue" in request.POST:
            return HttpResponseRedirect(request.get_full_path())
        return self.response_post_save_change(request, obj)

    # actions

    @admin.action(description="Publish selected styles", permissions=("change",))
    def publish(self, request: HttpRequest, queryset: QuerySet[Style]) -> None:
        self._set_status(request, list(queryset), Style.Status.PUBLISHED)

    @admin.action(description="Retire selected styles", permissions=("change",))
    def retire(self, request: HttpRequest, queryset: QuerySet[Style]) -> None:
        self._set_status(request, list(queryset), Style.Status.RETIRED)

    @admin.action(description="Take selected styles back to draft", permissions=("change",))
    def take_back(self, request: HttpRequest, queryset: QuerySet[Style]) -> None:
        self._set_status(request, list(queryset), Style.Status.DRAFT)

    def _set_status(self, request: HttpRequest, chosen: list[Style], status: Style.Status) -> None:
        now, actor = timezone.now(), actor_of(request)
        moved = [style for style in chosen if styles.set_status(style, status, actor=actor, now=now)]
        if moved:
            messages.success(request, f"Now {status}: {', '.join(style.name for style in moved)}.")
        if left := len(chosen) - len(moved):
            messages.info(
                request,
                f"{counted(left, 'style')} left as before: in that state already, or without a version.",
            )
        for tier in TIERS.values():
            if not styles.published(tier):
                messages.warning(
                    request, f"No style of the {tier.name} tier is published: its orders are refused now."
                )


def _with_count(prompt: str) -> SafeString:
    """A prompt, how long it is, and a warning if its end will not be read."""
    size = f"{counted(words_in(prompt), 'word')}, about {tokens_in(prompt)} of {TOKEN_LIMIT} tokens"
    warning = warning_about(prompt)
    return format_html(
        "{}<br><span class='quiet'>{}</span>{}",
        prompt or "nothing",
        size,
        format_html("<p class='errornote'>{}</p>", warning) if warning else "",
    )
