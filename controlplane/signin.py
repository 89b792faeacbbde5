"""Signing in: the login page with its second step, what happens after too many failures, notes in the audit log.

Failures are counted by django-axes for a name and an address together: who guesses somebody's password is locked out,
and that somebody is not. Whoever tries one name after the other is stopped by `throttled`, before a hash is computed
(controlplane/hashing.py).
"""

from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from allauth.account.internal.flows.login import get_authentication_records, perform_password_login
from allauth.account.models import Login
from allauth.mfa import signals as mfa_signals
from allauth.mfa.utils import is_mfa_enabled
from axes.helpers import get_client_username
from axes.models import AccessAttempt
from axes.signals import user_locked_out
from django.conf import settings
from django.contrib import admin
from django.contrib.auth import REDIRECT_FIELD_NAME, views
from django.contrib.auth.forms import AuthenticationForm
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.cache import cache
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin
from unfold.forms import AuthenticationForm as SignInForm

from groups import audit
from sessions import client_address, throttle
from sessions.client_address import client_network

AUDITED_FAILURES = 100  # failures from one address that are noted, until an hour without one has passed


def client_ip(request: HttpRequest) -> str:
    """The address that a request came from (sessions/client_address.py)."""
    return client_address.request_address(request)


View = Callable[..., Any]


def throttled(view: View) -> View:
    """A page whose POST tries a password or a code: so many failures a minute from one address and by one person.

    It is counted before anything is computed, and given back if the page leads on, which is what it does on success.
    """

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *args, **kwargs)
        tries = [("address", client_network(client_ip(request)))]
        if request.user.is_authenticated:
            tries.append(("person", str(request.user.pk)))
        for each in tries:
            throttle.spend(*each)
        answer = view(request, *args, **kwargs)
        if 300 <= answer.status_code < 400:
            for each in tries:
                throttle.refund(*each)
        return answer

    return wrapped


class ThrottledMiddleware(MiddlewareMixin):
    """Middleware: what is refused for now (`Throttled`) is a page that says when to come again."""

    def process_exception(self, request: HttpRequest, error: Exception) -> HttpResponse | None:
        """The answer, with Retry-After; None for any other error."""
        if not isinstance(error, throttle.Throttled):
            return None
        return throttled_page(request, str(error), error.seconds, error.status)


def throttled_page(request: HttpRequest, words: str, seconds: int, status: int = 429) -> HttpResponse:
    """A page that says why nobody is let in now, and when to come again."""
    title = "Too many failed logins" if status == 429 else "Too many logins at once"
    context = {**admin.site.each_context(request), "title": title, "app_path": request.path, "words": words}
    answer = TemplateResponse(request, "admin/locked_out.html", context, status=status).render()
    answer["Retry-After"] = str(seconds)
    return answer


class SignIn(views.LoginView):
    """The admin's login page: a password, then the second factor of those who have one; or single sign-on."""

    template_name = "admin/login.html"
    authentication_form = SignInForm

    def get(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        """Who is in already goes on."""
        if admin.site.has_permission(request):
            return HttpResponseRedirect(self.get_success_url())
        return super().get(request, *args, **kwargs)

    def get_default_redirect_url(self) -> str:
        """The admin's first page."""
        return reverse("admin:index")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """What the admin's pages know, and the way to single sign-on."""
        target = self.get_redirect_url() or self.get_default_redirect_url()
        return super().get_context_data(**kwargs) | {
            **admin.site.each_context(self.request),
            "title": "Log in",
            "app_path": self.request.get_full_path(),
            "username": self.request.user.get_username(),
            REDIRECT_FIELD_NAME: target,
            "sso": {"name": settings.OIDC_NAME, "next": target} if settings.OIDC_URL else None,
        }

    def form_valid(self, form: AuthenticationForm) -> HttpResponse:
        """The password was right."""
        user: Any = form.get_user()
        if not settings.MFA:
            return super().form_valid(form)
        login = Login(user=user, redirect_url=self.get_success_url())
        return perform_password_login(self.request, {"username": user.get_username()}, login)


def locked_out(request: Any, *_: Any) -> HttpResponse:
    """The answer to one attempt too many: the login page, with words that say when to come back.

    It is called with other arguments in asynchronous than in synchronous code (axes 8.3), so it needs none of them.
    """
    name = get_client_username(request, request.axes_credentials)
    tries = AccessAttempt.objects.filter(username=name, ip_address=request.axes_ip_address)
    last = tries.order_by("-attempt_time").values_list("attempt_time", flat=True).first() or timezone.now()
    until = last + settings.AXES_COOLOFF_TIME
    seconds = max(int((until - timezone.now()).total_seconds()), 1)
    minutes = -(-seconds // 60)
    words = (
        f"Too many failed logins with this name from here. Try again at {until:%H:%M} UTC, in {minutes} "
        f"minute{'s' if minutes > 1 else ''}. From elsewhere the name can log in as before."
    )
    return throttled_page(request, words, seconds)


def _logged_in(request: Any, user: Any, **_: Any) -> None:
    how = [record["method"] for record in get_authentication_records(request, user)] if request.session else []
    second = settings.MFA and is_mfa_enabled(user)
    audit.record("login", actor=user, target=user.pk, ip=client_ip(request), how=how or ["password"], mfa=second)


def _logged_out(request: Any, user: Any, **_: Any) -> None:
    if user is not None:
        audit.record("logout", actor=user, target=user.pk, ip=client_ip(request))


def _failed(credentials: dict[str, Any], request: Any = None, **_: Any) -> None:
    """A wrong password. Who is locked out, or tries one name after the other, can't fill the log with it."""
    if request is None or getattr(request, "axes_locked_out", False):
        return
    name, ip = str(credentials.get("username", ""))[:150], client_ip(request)
    tries = cache.get(f"login.failed:{ip}", 0) + 1
    cache.set(f"login.failed:{ip}", tries, 3600)
    if tries <= AUDITED_FAILURES:
        audit.record("login.failed", by="somebody", target=name, ip=ip)
    elif tries == AUDITED_FAILURES + 1:
        audit.record("login.flood", by="somebody", target=name, ip=ip, noted=AUDITED_FAILURES)


def _locked(request: Any, username: str, **_: Any) -> None:
    """Axes tells of every attempt of who is locked out; with a count only of the one that did it."""
    if request.axes_failures_since_start is not None:
        seconds = int(settings.AXES_COOLOFF_TIME / timedelta(seconds=1))
        ip = client_ip(request)
        audit.record("login.lockout", by="somebody", target=str(username)[:100], ip=ip, seconds=seconds)


def _record_factor(action: str) -> Any:
    def noted(user: Any, authenticator: Any, **_: Any) -> None:
        audit.record(action, actor=user, target=user.pk, kind=str(authenticator.type))

    return noted


def connect_signals() -> None:
    """Note logins, logouts, failures and second factors from now on."""
    user_logged_in.connect(_logged_in, dispatch_uid="berth.login")
    user_logged_out.connect(_logged_out, dispatch_uid="berth.logout")
    user_login_failed.connect(_failed, dispatch_uid="berth.failed")
    user_locked_out.connect(_locked, dispatch_uid="berth.locked")
    mfa_signals.authenticator_added.connect(_record_factor("mfa.on"), weak=False, dispatch_uid="berth.mfa.add")
    mfa_signals.authenticator_removed.connect(_record_factor("mfa.off"), weak=False, dispatch_uid="berth.mfa.remove")
    mfa_signals.authenticator_reset.connect(_record_factor("mfa.reset"), weak=False, dispatch_uid="berth.mfa.reset")
