"""Logging in: by password, locked out after failures, with a second factor, by single sign-on; and what is noted."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import jwt
import pytest
import requests
from allauth.mfa.models import Authenticator
from allauth.mfa.totp.internal.auth import format_hotp_value, hotp_value
from axes.models import AccessAttempt
from django.contrib.auth.hashers import PBKDF2PasswordHasher
from django.contrib.auth.models import User
from django.core.cache import cache
from django.test import Client, RequestFactory
from django.urls import reverse
from django.utils import timezone

from controlplane import csp, hashing, signin
from groups.models import AuditEntry, Membership
from testbed.waiting import wait_for

LOGIN = "/admin/login/"
PASSWORD = "a long enough one"


@pytest.fixture
def ada(db: None) -> User:
    cache.clear()
    return User.objects.create_user("ada", "ada@example.org", PASSWORD, is_staff=True)


def log_in(client: Client, password: str = PASSWORD, name: str = "ada", **meta: str) -> Any:
    return client.post(f"{LOGIN}?next=/admin/password_change/", {"username": name, "password": password}, **meta)


def actions() -> list[str]:
    """What was noted, oldest first, but for rows that were made."""
    found = AuditEntry.objects.order_by("pk").values_list("action", flat=True)
    return [action for action in found if not action.endswith(".add")]


def test_a_password_lets_in_and_is_noted(ada: User, client: Client) -> None:
    assert log_in(client).headers["Location"] == "/admin/password_change/"
    assert client.get("/admin/").status_code == 200
    client.post(reverse("admin:logout"))
    assert client.get("/admin/").status_code == 302
    assert actions() == ["login", "logout"]
    entry = AuditEntry.objects.get(action="login")
    assert (entry.by, entry.details) == ("ada", {"ip": "127.0.0.1", "how": ["password"], "mfa": False})


def test_the_way_on_stays_here(ada: User, client: Client) -> None:
    answer = client.post(f"{LOGIN}?next=https://evil.example/", {"username": "ada", "password": PASSWORD})
    assert answer.headers["Location"] == "/admin/"


def test_five_failures_lock_out_with_words_that_say_when(ada: User, client: Client) -> None:
    assert [log_in(client, "wrong").status_code for _ in range(5)] == [200, 200, 200, 200, 429]
    answer = log_in(client)
    assert answer.status_code == 429
    assert 890 <= int(answer["Retry-After"]) <= 900
    until = AccessAttempt.objects.get().attempt_time + timedelta(minutes=15)
    assert f"Try again at {until:%H:%M} UTC, in 15 minutes" in answer.content.decode()
    assert client.get("/admin/").status_code == 302


def test_the_lockout_ends(ada: User, client: Client) -> None:
    for _ in range(5):
        log_in(client, "wrong")
    AccessAttempt.objects.update(attempt_time=timezone.now() - timedelta(minutes=16))
    assert log_in(client).status_code == 302


def test_nobody_can_lock_somebody_else_out(ada: User, client: Client) -> None:
    for _ in range(6):
        log_in(client, "wrong", REMOTE_ADDR="203.0.113.9")
    assert log_in(client, REMOTE_ADDR="203.0.113.9").status_code == 429
    assert log_in(client).status_code == 302


def test_trying_on_makes_no_lockout_longer(ada: User, client: Client) -> None:
    for _ in range(5):
        log_in(client, "wrong")
    before = AccessAttempt.objects.get().attempt_time
    for _ in range(5):
        log_in(client, "wrong")
    assert AccessAttempt.objects.get().attempt_time == before


def test_failures_and_the_lockout_are_noted_once(ada: User, client: Client) -> None:
    for _ in range(20):
        log_in(client, "wrong password")
    assert actions() == ["login.failed"] * 4 + ["login.lockout"]
    assert "wrong password" not in str(list(AuditEntry.objects.values()))
    assert "wrong password" not in str(list(AccessAttempt.objects.values()))


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "198.51.100.1", "127.0.0.1"),
        (1, "", "127.0.0.1"),
        (1, "198.51.100.1", "198.51.100.1"),
        (1, "6.6.6.6, 198.51.100.1", "198.51.100.1"),
        (2, "6.6.6.6, 198.51.100.1, 10.0.0.1", "198.51.100.1"),
        (2, "198.51.100.1", "127.0.0.1"),
    ],
)
def test_the_address_is_the_one_that_our_proxy_saw(settings: Any, proxies: int, forwarded: str, expected: str) -> None:
    settings.PROXIES = proxies
    request = RequestFactory().get("/", headers={"X-Forwarded-For": forwarded} if forwarded else {})
    assert signin.client_ip(request) == expected


def test_who_comes_past_the_proxies_is_not_believed(settings: Any) -> None:
    settings.PROXIES, settings.PROXY_NETWORKS = 1, ["10.1.2.0/24"]
    headers = {"X-Forwarded-For": "198.51.100.1"}
    for caller, expected in (("10.1.2.3", "198.51.100.1"), ("10.9.9.9", "10.9.9.9"), ("unix", "unix")):
        assert signin.client_ip(RequestFactory().get("/", headers=headers, REMOTE_ADDR=caller)) == expected


def test_one_address_can_not_fill_the_log(ada: User, client: Client, settings: Any) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 1000
    for number in range(signin.AUDITED_FAILURES + 5):
        log_in(client, "wrong", name=f"nobody-{number}")
    noted = actions()
    assert noted.count("login.failed") == signin.AUDITED_FAILURES and noted.count("login.flood") == 1


def test_one_address_tries_so_many_names_a_minute(ada: User, client: Client, settings: Any) -> None:
    """The rest is refused before a hash is computed or a row written."""
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 6
    answers = [log_in(client, "wrong", name=f"nobody-{number}") for number in range(10)]
    assert [answer.status_code for answer in answers] == [200] * 6 + [429] * 4
    assert answers[-1]["Retry-After"] == "60" and b"Too many failed attempts" in answers[-1].content
    assert AccessAttempt.objects.count() == 6
    assert log_in(client).status_code == 429
    assert log_in(client, REMOTE_ADDR="203.0.113.9").status_code == 302


def test_who_logs_in_uses_no_attempt_up(ada: User, client: Client, settings: Any) -> None:
    settings.LOGIN_ATTEMPTS_PER_MINUTE = 2
    assert [log_in(client).status_code for _ in range(5)] == [302] * 5


@pytest.mark.parametrize("address", ["/admin/password_change/", "/accounts/confirm/"])
def test_a_password_is_not_guessed_by_who_is_logged_in(ada: User, client: Client, settings: Any, address: str) -> None:
    """A session that was stolen is no place to guess the password in, wherever it is used from."""
    settings.LOGIN_ATTEMPTS_PER_MINUTE, settings.MFA = 3, True
    client.force_login(ada)
    new = {"new_password1": "another long one", "new_password2": "another long one"}
    told = [
        client.post(address, {"old_password": "wrong", "password": "wrong", **new}, REMOTE_ADDR=f"203.0.113.{number}")
        for number in range(5)
    ]
    assert [answer.status_code for answer in told] == [200, 200, 200, 429, 429]
    assert told[-1]["Retry-After"] == "60"
    ada.refresh_from_db()
    assert ada.check_password(PASSWORD)


def test_passwords_are_hashed_in_turn(ada: User, client: Client, settings: Any) -> None:
    """While as many wait as may, the next one is told to come again."""
    settings.PASSWORD_HASHERS = ["controlplane.hashing.LimitedPasswordHasher"]
    room, release = hashing.AT_ONCE + hashing.WAITING, threading.Event()
    working: list[int] = []

    def work() -> None:
        with hashing.limit.slot():
            working.append(1)
            release.wait(30)

    threads = [threading.Thread(target=work) for _ in range(hashing.AT_ONCE)]
    for thread in threads:
        thread.start()
    wait_for(lambda: len(working) == hashing.AT_ONCE)
    for _ in range(room - hashing.AT_ONCE):
        assert hashing.limit._room.acquire(blocking=False)  # those who wait
    try:
        answer = log_in(client)
        assert answer.status_code == 503 and answer["Retry-After"] == "5"
        assert b"Try again in a few seconds" in answer.content
    finally:
        release.set()
        hashing.limit._room.release(room - hashing.AT_ONCE)
        for thread in threads:
            thread.join()
    assert len(working) == hashing.AT_ONCE


def test_old_hashes_open_as_before() -> None:
    made = hashing.LimitedPasswordHasher().encode("secret", "salt", 1000)
    assert made == PBKDF2PasswordHasher().encode("secret", "salt", 1000)
    assert hashing.LimitedPasswordHasher().verify("secret", made)


# --- the second factor ---------------------------------------------------------------------------------------------


def code(secret: str, step: int = 0) -> str:
    """What an authenticator app shows, `step` half minutes from now."""
    return format_hotp_value(hotp_value(secret, int(time.time()) // 30 + step))


@pytest.fixture
def with_factor(ada: User, client: Client, settings: Any, django_capture_on_commit_callbacks: Any) -> str:
    """Ada has a second factor; the secret of her app."""
    settings.MFA = True
    log_in(client)
    there = client.get("/accounts/2fa/totp/activate/").headers["Location"]
    assert there.startswith("/accounts/confirm/")
    assert client.post(there, {"password": "wrong"}).status_code == 200
    assert client.post(there, {"password": PASSWORD}).status_code == 302
    page = client.get("/accounts/2fa/totp/activate/")
    assert page.status_code == 200, page.headers
    secret: str = page.context["form"].secret
    assert b"data:image/svg+xml" in page.content and "<script" not in page.content.decode()
    with django_capture_on_commit_callbacks(execute=True):
        answer = client.post("/accounts/2fa/totp/activate/", {"code": code(secret)})
    assert answer.status_code == 302
    client.post(reverse("admin:logout"))
    cache.clear()  # the same code may not be used twice, not even by this test
    return secret


def test_a_password_alone_does_not_open_what_has_a_second_factor(with_factor: str, client: Client) -> None:
    assert log_in(client).headers["Location"] == "/accounts/2fa/authenticate/"
    assert client.get("/admin/").status_code == 302
    assert client.post("/accounts/2fa/authenticate/", {"code": "000000"}).status_code == 200
    assert client.get("/admin/").status_code == 302
    answer = client.post("/accounts/2fa/authenticate/", {"code": code(with_factor)})
    assert answer.headers["Location"] == "/admin/password_change/"
    assert client.get("/admin/").status_code == 200
    entry = AuditEntry.objects.filter(action="login").first()
    assert entry and entry.details["how"] == ["password", "mfa"] and entry.details["mfa"] is True
    assert "mfa.on" in actions()


def test_a_code_is_good_once(with_factor: str, client: Client) -> None:
    used = code(with_factor)
    log_in(client)
    client.post("/accounts/2fa/authenticate/", {"code": used})
    client.post(reverse("admin:logout"))
    log_in(client)
    assert client.post("/accounts/2fa/authenticate/", {"code": used}).status_code == 200
    assert client.get("/admin/").status_code == 302


def test_a_recovery_code_opens_once(with_factor: str, client: Client, ada: User) -> None:
    factor = Authenticator.objects.get(user=ada, type="recovery_codes").wrap()
    one = factor.get_unused_codes()[0]
    for expected in (302, 200):
        log_in(client)
        assert client.post("/accounts/2fa/authenticate/", {"code": one}).status_code == expected
        client.post(reverse("admin:logout"))


def test_guessing_codes_is_slowed(with_factor: str, client: Client) -> None:
    log_in(client)
    for _ in range(12):
        answer = client.post("/accounts/2fa/authenticate/", {"code": "000000"})
    assert b"Too many" in answer.content
    answer = client.post("/accounts/2fa/authenticate/", {"code": code(with_factor)})
    assert client.get("/admin/").status_code == 302


def test_the_secret_is_not_in_the_database(with_factor: str, ada: User) -> None:
    stored = json.dumps([row.data for row in Authenticator.objects.all()])
    assert with_factor not in stored and "seed" in stored
    factor = Authenticator.objects.get(user=ada, type="recovery_codes").wrap()
    assert not any(one in stored for one in factor.get_unused_codes())


def test_the_second_factor_can_be_removed_after_it_was_shown(with_factor: str, client: Client, ada: User) -> None:
    log_in(client)
    client.post("/accounts/2fa/authenticate/", {"code": code(with_factor)})
    assert client.post("/accounts/2fa/totp/deactivate/").headers["Location"].startswith("/accounts/")
    assert Authenticator.objects.filter(user=ada).exists()
    client.post("/accounts/confirm/", {"password": PASSWORD})
    for page in ("/accounts/2fa/", "/accounts/2fa/recovery-codes/", "/accounts/2fa/totp/deactivate/"):
        assert client.get(page).status_code == 200, page
    assert client.post("/accounts/2fa/totp/deactivate/").status_code == 302
    assert not Authenticator.objects.filter(user=ada).exists()
    assert "mfa.off" in actions()


def test_these_pages_are_not_there_unless_switched_on(ada: User, client: Client, settings: Any) -> None:
    client.force_login(ada)
    for page in ("/accounts/2fa/", "/accounts/confirm/", "/accounts/sso/oidc/login/"):
        assert client.get(page).status_code == 404, page


def test_their_policy_is_strict(with_factor: str, client: Client) -> None:
    for page in (LOGIN, "/accounts/2fa/authenticate/"):
        assert "unsafe-eval" not in client.get(page)[csp.NAME]


# --- single sign-on ------------------------------------------------------------------------------------------------


class Provider(BaseHTTPRequestHandler):
    """An OpenID Connect provider that lets in whoever `server.claims` tells of."""

    server: Any

    def log_message(self, *_: Any) -> None:
        pass

    def _say(self, told: Any, status: int = 200) -> None:
        body = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self) -> None:
        url, here = urlsplit(self.path), self.server.here
        if url.path == "/.well-known/openid-configuration":
            paths = {"authorization_endpoint": "authorize", "token_endpoint": "token", "userinfo_endpoint": "userinfo"}
            told = {name: f"{here}/{path}" for name, path in {**paths, "jwks_uri": "jwks"}.items()}
            self._say(told | {"issuer": here})
        elif url.path == "/authorize":
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            self.server.asked = query
            self.send_response(302)
            self.send_header("Location", f"{query['redirect_uri']}?{urlencode({'code': 'c', 'state': query['state']})}")
            self.end_headers()
        elif url.path == "/userinfo":
            self._say(self.server.claims)
        else:
            self._say({}, 404)

    def do_POST(self) -> None:
        form = {k: v[0] for k, v in parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode()).items()}
        self.server.exchanged = form
        now = int(time.time())
        about = {"iss": self.server.here, "aud": "berth", "iat": now, "exp": now + 60}
        token = jwt.encode(self.server.claims | about | self.server.forged, "k" * 32, "HS256")
        self._say({"access_token": "a", "token_type": "Bearer", "id_token": token})


@pytest.fixture
def provider(settings: Any, db: None) -> Iterator[Any]:
    """The provider, and settings that name it."""
    cache.clear()
    server: Any = ThreadingHTTPServer(("127.0.0.1", 0), Provider)
    server.here = f"http://127.0.0.1:{server.server_address[1]}"
    server.claims = {"sub": "1", "preferred_username": "grace", "email": "grace@example.org", "email_verified": True}
    server.forged = {}
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    settings.OIDC_URL, settings.OIDC_NAME = server.here, "the harbour office"
    app = {"provider_id": "oidc", "name": "office", "client_id": "berth", "secret": "s3cret"}
    app |= {"settings": {"server_url": server.here}}
    settings.SOCIALACCOUNT_PROVIDERS = {"openid_connect": {"OAUTH_PKCE_ENABLED": True, "APPS": [app]}}
    yield server
    server.shutdown()
    server.server_close()


def sign_on(client: Client, query: str = "?next=/admin/password_change/") -> Any:
    """Go to the provider and back."""
    there = client.get(f"/accounts/sso/oidc/login/{query}")
    assert there.status_code == 302, there.content
    back = requests.get(there.headers["Location"], allow_redirects=False, timeout=10).headers["Location"]
    url = urlsplit(back)
    return client.get(f"{url.path}?{url.query}")


def test_the_login_page_offers_it(provider: Any, client: Client) -> None:
    page = client.get(f"{LOGIN}?next=/admin/groups/").content.decode()
    assert "Sign in with the harbour office" in page
    assert "/accounts/sso/oidc/login/?next=/admin/groups/" in page


def test_a_newcomer_gets_an_account_that_may_do_nothing(provider: Any, client: Client) -> None:
    provider.claims |= {"groups": ["berth-admins"], "roles": ["superuser"], "is_superuser": True, "is_staff": True}
    assert sign_on(client).status_code == 302
    user = User.objects.get(username="grace")
    assert not (user.is_staff or user.is_superuser or user.has_usable_password())
    assert not Membership.objects.filter(user=user).exists() and not user.groups.exists()
    page = client.get(f"{LOGIN}?next=/admin/").content.decode()
    assert "You are logged in as grace, who may not use these pages yet" in page
    assert AuditEntry.objects.get(action="login").details["how"] == ["socialaccount"]


def test_who_comes_again_is_the_same_and_goes_where_they_wanted(provider: Any, client: Client) -> None:
    sign_on(client)
    User.objects.filter(username="grace").update(is_staff=True)
    client.post(reverse("admin:logout"))
    provider.claims["email"] = "new@example.org"
    assert sign_on(client).headers["Location"] == "/admin/password_change/"
    assert client.get("/admin/").status_code == 200
    assert User.objects.count() == 1


def test_somebody_known_is_found_by_a_verified_address(provider: Any, client: Client, ada: User) -> None:
    provider.claims |= {"preferred_username": "someone", "email": "ADA@example.org"}
    sign_on(client)
    assert client.get("/admin/").status_code == 200
    assert client.session["_auth_user_id"] == str(ada.pk)
    assert User.objects.count() == 1


@pytest.mark.parametrize("why", ["unverified", "superuser", "twice", "off"])
def test_an_address_that_proves_nothing_opens_nothing(provider: Any, client: Client, ada: User, why: str) -> None:
    provider.claims |= {"email": "ada@example.org", "email_verified": why != "unverified"}
    User.objects.filter(pk=ada.pk).update(is_superuser=why == "superuser", is_active=why != "off")
    if why == "twice":
        User.objects.create_user("ada2", "ada@example.org")
    before = User.objects.count()
    answer = sign_on(client)
    assert answer.status_code == 403 and b"Somebody here has your e-mail address" in answer.content
    assert "_auth_user_id" not in client.session and User.objects.count() == before


def test_an_account_is_not_connected_to_somebody_who_is_in(provider: Any, client: Client, ada: User) -> None:
    client.force_login(ada)
    answer = sign_on(client, "?process=connect")
    assert answer.status_code == 403
    assert not ada.socialaccount_set.exists()


@pytest.mark.parametrize("forged", [{"aud": "somebody-else"}, {"iss": "https://evil.example"}, {"exp": 1}])
def test_a_token_for_others_opens_nothing(provider: Any, client: Client, forged: dict[str, Any]) -> None:
    provider.forged = forged
    answer = sign_on(client)
    assert answer.status_code == 403 and b"did not succeed" in answer.content
    assert not User.objects.exists()


def test_an_answer_nobody_asked_for_opens_nothing(provider: Any, client: Client) -> None:
    assert client.get("/accounts/sso/oidc/login/callback/?code=c&state=made-up").status_code == 403
    assert not User.objects.exists()


def test_the_code_is_bound_to_this_browser(provider: Any, client: Client) -> None:
    sign_on(client)
    assert provider.asked["code_challenge_method"] == "S256" and provider.exchanged["code_verifier"]
    assert "openid" in provider.asked["scope"]


def test_who_was_switched_off_stays_out(provider: Any, client: Client) -> None:
    sign_on(client)
    User.objects.update(is_active=False)
    client.logout()
    sign_on(client)
    assert "_auth_user_id" not in client.session


def test_single_sign_on_asks_for_the_second_factor_too(provider: Any, client: Client, with_factor: str) -> None:
    provider.claims |= {"email": "ada@example.org"}
    assert sign_on(client).headers["Location"] == "/accounts/2fa/authenticate/"
    assert client.get("/admin/").status_code == 302


def test_a_provider_that_is_away_is_said(provider: Any, client: Client) -> None:
    provider.shutdown()
    provider.server_close()
    answer = client.get("/accounts/sso/oidc/login/")
    assert answer.status_code == 503 and b"be reached now" in answer.content
