"""Single sign-on (OpenID Connect) and the second factor, both by django-allauth, and the addresses they need.

Of allauth's pages only these are there: no sign-up form, no e-mail pages, no password reset. What a provider says of
groups or roles gives nobody anything here: operators do.
"""

import base64
import hashlib
from collections.abc import Callable
from functools import wraps
from typing import Any

import requests
import structlog
from allauth.account import views as account
from allauth.account.adapter import DefaultAccountAdapter
from allauth.core.exceptions import ImmediateHttpResponse
from allauth.mfa.adapter import DefaultMFAAdapter
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as codes
from allauth.mfa.totp import views as totp
from allauth.socialaccount.adapter import DefaultSocialAccountAdapter
from allauth.socialaccount.providers.openid_connect import views as oidc
from cryptography.fernet import Fernet, MultiFernet
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import User
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import URLPattern, path, reverse
from django.views.generic import RedirectView

from controlplane.signin import throttled

log = structlog.get_logger(__name__)
NOT_NOW = "The identity provider can't be reached now. Try again in a while, or log in with a password if you have one."
MODEL_BACKEND = "django.contrib.auth.backends.ModelBackend"
View = Callable[..., HttpResponse]


class Accounts(DefaultAccountAdapter):
    """What allauth does at the end of a login."""

    def login(self, request: HttpRequest, user: Any) -> None:
        """As after a password: axes' own backend, which stands first, knows nobody."""
        auth.login(request, user, backend=MODEL_BACKEND)

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        """No: there is no form to sign up by."""
        return False

    def get_login_redirect_url(self, request: HttpRequest) -> str:
        """The admin's first page."""
        return reverse("admin:index")

    def add_message(self, *_: Any, **__: Any) -> None:
        """The pages say it themselves."""


def forbidden(request: HttpRequest, words: str) -> ImmediateHttpResponse:
    """An exception that answers with a page of `words`."""
    return ImmediateHttpResponse(render(request, "accounts/refused.html", {"words": words}, status=403))


class SingleSignOn(DefaultSocialAccountAdapter):
    """Who comes from the provider: a person that is known, or a new one who may do nothing yet."""

    def is_open_for_signup(self, request: HttpRequest, sociallogin: Any) -> bool:
        """Whoever the provider lets in gets an account; an operator gives it a role."""
        return True

    def pre_social_login(self, request: HttpRequest, sociallogin: Any) -> None:
        """Who comes for the first time is known by an address that the provider has verified.

        Raises ImmediateHttpResponse: the address is somebody's, and does not prove that this is them.
        """
        if sociallogin.state.get("process") not in (None, "", "login"):
            raise forbidden(request, "Accounts are connected by signing in, and in no other way.")
        if sociallogin.is_existing:
            return
        address = sociallogin.email_addresses[0] if sociallogin.email_addresses else None
        known = list(User.objects.filter(email__iexact=address.email)[:2]) if address else []
        if not known:
            return
        if len(known) > 1 or not (address and address.verified) or known[0].is_superuser or not known[0].is_active:
            words = (
                "Somebody here has your e-mail address already, and this sign-on does not show that it is you: the "
                "provider has not verified the address, or the account is a superuser's, was switched off, or is not "
                "the only one with it. Log in with your password, or ask an operator."
            )
            raise forbidden(request, words)
        sociallogin.connect(request, known[0])

    def save_user(self, request: HttpRequest, sociallogin: Any, form: Any = None) -> Any:
        """A new person has no power, whatever the provider says."""
        user = sociallogin.user
        user.is_staff = user.is_superuser = False
        return super().save_user(request, sociallogin, form)

    def on_authentication_error(self, request: HttpRequest, *_: Any, **__: Any) -> None:
        """The provider refused, or said something that can't be. Its words are not shown: anybody could send them."""
        words = (
            "The sign-on did not succeed. Try again; if it stays so, ask an operator to look at the settings OIDC_*."
        )
        raise forbidden(request, words)


class SecondFactor(DefaultMFAAdapter):
    """Second factors, whose secrets stand in the database encrypted under a key that is derived from SECRET_KEY."""

    def _fernet(self) -> MultiFernet:
        """Encrypts with the first key; decrypts with any."""
        keys = [settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS]
        derived = [hashlib.sha256(b"berth.mfa:" + key.encode()).digest() for key in keys]
        return MultiFernet([Fernet(base64.urlsafe_b64encode(key)) for key in derived])

    def encrypt(self, text: str) -> str:
        """What is stored."""
        return self._fernet().encrypt(text.encode()).decode()

    def decrypt(self, encrypted_text: str) -> str:
        """What was stored. Once its key is no longer among the fallbacks, the person sets their factor up anew."""
        return self._fernet().decrypt(encrypted_text.encode()).decode()

    def get_totp_issuer(self) -> str:
        """The name in the authenticator app."""
        return "Berth"


def enabled_by(setting: str, view: View) -> View:
    """A page that is not there while a setting is off."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not getattr(settings, setting):
            raise Http404
        return view(request, *args, **kwargs)

    return wrapped


def provider_step(view: View) -> View:
    """A step of single sign-on; a page with words where the provider can't be reached."""

    @wraps(view)
    def wrapped(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        try:
            return view(request, *args, **kwargs)
        except requests.RequestException as error:
            log.warning("identity provider away", error=str(error))
            return render(request, "accounts/refused.html", {"words": NOT_NOW}, status=503)

    return wrapped


def login_error(request: HttpRequest) -> HttpResponse:
    """Where allauth sends who comes back without having signed on."""
    words = "The sign-on was not finished. Log in again."
    return render(request, "accounts/refused.html", {"words": words}, status=403)


def cancel(request: HttpRequest) -> HttpResponse:
    """Leave between the password and the second factor, or altogether."""
    if request.method == "POST":
        auth.logout(request)
    return HttpResponseRedirect(reverse("admin:login"))


def page(address: str, view: View, name: str, setting: str) -> URLPattern:
    """An address that is there while a setting is on."""
    return path(address, enabled_by(setting, view), name=name)


def _pages(setting: str, *found: tuple[str, View, str]) -> list[URLPattern]:
    return [page(address, view, name, setting) for address, view, name in found]


to_login = RedirectView.as_view(pattern_name="admin:login", query_string=True)
urlpatterns: list[URLPattern] = [
    path("login/", to_login, name="account_login"),
    path("cancel/", cancel, name="account_logout"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    *_pages(
        "OIDC_URL",
        ("sso/<str:provider_id>/login/", provider_step(oidc.login), "openid_connect_login"),
        ("sso/<str:provider_id>/login/callback/", provider_step(oidc.callback), "openid_connect_callback"),
        ("sso/cancelled/", login_error, "socialaccount_login_cancelled"),
        ("sso/error/", login_error, "socialaccount_login_error"),
        ("sso/signup/", login_error, "socialaccount_signup"),
        ("sso/", login_error, "socialaccount_connections"),
    ),
    *_pages(
        "MFA",
        ("confirm/", throttled(account.reauthenticate), "account_reauthenticate"),
        ("2fa/", mfa.index, "mfa_index"),
        ("2fa/authenticate/", throttled(mfa.authenticate), "mfa_authenticate"),
        ("2fa/reauthenticate/", throttled(mfa.reauthenticate), "mfa_reauthenticate"),
        ("2fa/totp/activate/", throttled(totp.activate_totp), "mfa_activate_totp"),
        ("2fa/totp/deactivate/", totp.deactivate_totp, "mfa_deactivate_totp"),
        ("2fa/recovery-codes/", codes.view_recovery_codes, "mfa_view_recovery_codes"),
        ("2fa/recovery-codes/generate/", codes.generate_recovery_codes, "mfa_generate_recovery_codes"),
        ("2fa/recovery-codes/download/", codes.download_recovery_codes, "mfa_download_recovery_codes"),
    ),
]
