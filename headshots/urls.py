"""All routes: the pages, the API and the staff screens."""

from django.contrib import admin
from django.urls import include, path

from headshots.api import api

urlpatterns = [
    path("", include("headshots.web.urls")),
    path("api/v1/", api.urls),
    path("admin/", admin.site.urls),
]

handler400 = "headshots.web.views.bad_request"
handler403 = "headshots.web.views.forbidden"
handler404 = "headshots.web.views.not_found"
handler500 = "headshots.web.views.server_error"
