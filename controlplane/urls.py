"""Every address of Berth but the couriers' (controlplane/asgi.py)."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, path, re_path
from django.views.generic import RedirectView

from controlplane import health
from schedules.api import router as tasks
from sessions.api import api, no_such_address

api.add_router("", tasks)
urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    path("admin/", admin.site.urls),
    path("api/v1/", api.urls),
    re_path(r"^api/", no_such_address),
    path("favicon.ico", RedirectView.as_view(url=static("berth/icon.svg"))),
]
