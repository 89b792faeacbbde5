"""Every address of Berth but the couriers' (controlplane/asgi.py)."""

from django.contrib import admin
from django.templatetags.static import static
from django.urls import URLPattern, URLResolver, include, path, re_path
from django.views.generic import RedirectView

from controlplane import health
from controlplane.signin import SignIn, throttled
from egress_policy.api import router as egress
from schedules.api import router as tasks
from sessions.api.endpoints import api
from sessions.api.errors import no_such_address

api.add_router("", tasks)
api.add_router("", egress)
urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index"), name="home"),
    path("healthz", health.healthz),
    path("readyz", health.readyz),
    # Before the admin's own, whose names lead here.
    path("admin/login/", throttled(SignIn.as_view())),
    path("admin/password_change/", throttled(admin.site.admin_view(admin.site.password_change, cacheable=True))),
    path("admin/", admin.site.urls),
    path("accounts/", include("controlplane.accounts")),
    path("api/v1/", api.urls),
    re_path(r"^api/", no_such_address),
    path("favicon.ico", RedirectView.as_view(url=static("berth/icon.svg"))),
]
