"""The site's routes. The API's links use the names; bookmarks hold the addresses."""

from django.urls import URLPattern, URLResolver, include, path

from headshots.web import checkout_views, health, order_views, receipt_views, views

one_headshot = [
    path("", order_views.picture, name="picture"),
    path("preview", order_views.preview, name="preview"),
    path("full", order_views.full, name="full"),
    path("download", order_views.download, name="download"),
    path("redo", order_views.redo_headshot, name="redo"),
    path("keep", order_views.keep_headshot, name="keep"),
]
one_order: list[URLPattern | URLResolver] = [
    path("", order_views.show, name="order"),
    path("progress", order_views.progress_part, name="progress"),
    path("archive.zip", order_views.archive, name="archive"),
    path("export.zip", order_views.export_everything, name="export"),
    path("checkout", checkout_views.checkout, name="checkout"),
    path("checkout/return", checkout_views.returned, name="checkout-return"),
    path("checkout/status", checkout_views.status_part, name="checkout-status"),
    path("delete", order_views.delete, name="delete"),
    path("headshots/<int:index>/", include(one_headshot)),
]
urlpatterns = [
    path("", views.landing, name="landing"),
    path("new", views.new, name="new"),
    path("o", views.open_link, name="open"),
    path("orders/<uuid:order_id>/", include(one_order)),
    path("receipts/<str:receipt_id>", receipt_views.receipt, name="receipt"),
    path("receipts/<str:receipt_id>/receipt.txt", receipt_views.receipt_text, name="receipt-text"),
    path("verify", receipt_views.verify, name="verify"),
    path("verify-picture", views.verify_picture, name="verify-picture"),
    path("keys", receipt_views.keys, name="keys"),
    path("audit/checkpoint", receipt_views.newest_checkpoint, name="newest-checkpoint"),
    path("audit/checkpoints", receipt_views.checkpoints, name="checkpoints"),
    path("audit/checkpoints/<int:index>", receipt_views.checkpoint, name="checkpoint"),
    path("privacy", views.privacy, name="privacy"),
    path("terms", views.terms, name="terms"),
    path("licences/<str:tier_slug>", views.licence, name="licence"),
    path("robots.txt", views.robots, name="robots"),
    path("webhooks/stripe", checkout_views.stripe_webhook, name="stripe-webhook"),
    path("healthz", health.alive, name="healthz"),
    path("healthz/workers", health.working, name="healthz-workers"),
    path("readyz", health.ready, name="readyz"),
]
