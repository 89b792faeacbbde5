"""The one place that talks to a Kubernetes API server: plain dictionaries in and out, typed errors.

The `kubernetes` package brings credentials and TLS. Its models are passed over: parsing into them takes longer than the
API server's answer.
"""

import contextlib
import http.client
import json
import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3

from k8s_adapter.config import KubernetesConfig
from runtimes.base import Cause, PermanentFault, RuntimeFault, TransientFault

Object = dict[str, Any]

CONNECT_SECONDS = 3.0
READ_SECONDS = 6.0
MERGE_PATCH = "application/merge-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"  # JSON is YAML


# What admission says when a quota is used up, and when a new one does not count yet.
QUOTA_MARKS = ("exceeded quota", "status unknown for quota")


class NotFound(PermanentFault):
    """404: no such object, or no such namespace."""


class Conflict(TransientFault):
    """409: an object of this name exists, or was changed meanwhile."""


class Expired(TransientFault):
    """410: the resource version to watch from is too old; list again."""


class Api:
    """JSON calls to one API server. Safe to share among threads, and after a fork."""

    def __init__(self, config: KubernetesConfig) -> None:
        self._config = config
        self._client: Any = None
        self._pid = 0
        self._lock = threading.Lock()

    def get(self, path: str, **query: str) -> Object:
        """Read an object or a list. Raises NotFound and the other faults of `fault`."""
        return self._call("GET", path, query)

    def create(self, path: str, body: Object) -> Object:
        """Create an object in the collection `path` and return it as stored. Raises Conflict if its name is taken."""
        return self._call("POST", path, body=body)

    def patch(self, path: str, body: Object) -> Object:
        """Apply a JSON merge patch (RFC 7386) and return the object."""
        return self._call("PATCH", path, body=body, content_type=MERGE_PATCH)

    def apply(self, path: str, body: Object, manager: str) -> Object:
        """Make an object as `body` says, by server-side apply as `manager`, and return it; others' claims give way."""
        return self._call("PATCH", path, {"fieldManager": manager, "force": "true"}, body, APPLY_PATCH)

    def replace(self, path: str, body: Object) -> Object:
        """Replace an object, whatever its version, and return it as stored."""
        return self._call("PUT", path, body=body)

    def delete(self, path: str) -> None:
        """Delete an object and, in the background, what it owns. That it is gone already is success."""
        with contextlib.suppress(NotFound):
            self._call("DELETE", path, {"propagationPolicy": "Background"})

    def watch(self, path: str, silence: float, **query: str) -> Iterator[Object]:
        """Yield watch events, `{"type", "object"}`, until the server ends the stream.

        Raises Expired on 410, and TransientFault when nothing, not even a bookmark, came for `silence` seconds.
        """
        query = {"watch": "true", "allowWatchBookmarks": "true", **query}
        response = self._send("GET", path, query, timeout=(CONNECT_SECONDS, silence))
        try:
            for line in _lines(response):
                event = json.loads(line)
                if event["type"] == "ERROR":
                    status = event["object"]
                    raise fault(int(status.get("code", 500)), status)
                yield event
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TransientFault(Cause.UNREACHABLE, f"the watch was cut: {error}") from error
        finally:
            response.close()

    def _call(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
    ) -> Object:
        response = self._send(method, path, query, body, content_type)
        try:
            answer: Object = json.loads(response.data)
            return answer
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise TransientFault(Cause.UNREACHABLE, f"the API server's answer was cut: {error}") from error

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        content_type: str = "application/json",
        timeout: tuple[float, float] = (CONNECT_SECONDS, READ_SECONDS),
    ) -> urllib3.HTTPResponse:
        """Send a request and return the answer, unread, if it is a 2xx; else raise its fault."""
        client = self._connected()
        headers = {"Accept": "application/json"} | ({"Content-Type": content_type} if body is not None else {})
        try:
            request = client.param_serialize(
                method,
                path,
                query_params=list((query or {}).items()),
                header_params=headers,
                body=body,
                auth_settings=["BearerToken"],
            )
            response: urllib3.HTTPResponse = client.call_api(*request, _request_timeout=timeout).response
            if 200 <= response.status <= 299:
                return response
            answer = response.data
        except (urllib3.exceptions.HTTPError, http.client.HTTPException, OSError) as error:
            raise TransientFault(Cause.UNREACHABLE, f"the API server can't be reached: {error}") from error
        except _api_exception() as error:  # the package's own word for a failure of TLS
            raise TransientFault(Cause.UNREACHABLE, f"the API server can't be reached: {error}") from error
        raise fault(response.status, _status(answer), response.headers.get("Retry-After"))

    def _connected(self) -> Any:
        """The client of this process: sockets must not be shared with the process that forked it."""
        with self._lock:
            if self._pid != os.getpid():
                self._client, self._pid = _connect(self._config), os.getpid()
            return self._client


def fault(status: int, body: Mapping[str, Any], retry_after: str | None = None) -> RuntimeFault:
    """Translate an HTTP status and a Kubernetes `Status` object into a fault.

    What passes by itself: 401 (credentials are being renewed), 409, 410, 429, 5xx, a quota that is used up, and a
    namespace that is being deleted. Everything else needs a person.
    https://kubernetes.io/docs/reference/using-api/api-concepts/ and the `Reason` of k8s.io/apimachinery's meta/v1.
    """
    message = str(body.get("message") or body.get("reason") or f"HTTP {status}")
    wait = float(retry_after) if retry_after and retry_after.isdigit() else 1.0
    reasons = {cause.get("reason") for cause in (body.get("details") or {}).get("causes") or ()}
    if status == 404:
        return NotFound(Cause.VANISHED, message)
    if status == 409:
        return Conflict(Cause.REJECTED, message, wait)
    if status == 410:
        return Expired(Cause.UNREACHABLE, message, 0.0)
    if status == 403 and any(mark in message for mark in QUOTA_MARKS):
        return TransientFault(Cause.QUOTA, message, max(wait, 5.0))
    if status == 403 and "NamespaceTerminating" in reasons:
        return TransientFault(Cause.REJECTED, message, max(wait, 5.0))
    if status in (401, 408, 429) or status >= 500:
        return TransientFault(Cause.UNREACHABLE, message, wait)
    return PermanentFault(Cause.REJECTED, message)


def _status(raw: bytes) -> dict[str, Any]:
    """The `Status` object in an answer; a proxy between us and the API server may send anything else."""
    try:
        body = json.loads(raw)
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": raw[:500].decode(errors="replace")}


def _lines(response: urllib3.HTTPResponse) -> Iterator[bytes]:
    rest = b""
    for chunk in response.stream(amt=None):
        *lines, rest = (rest + chunk).split(b"\n")
        yield from (line for line in lines if line.strip())


def _api_exception() -> type[Exception]:
    from kubernetes.client.exceptions import ApiException

    error: type[Exception] = ApiException
    return error


def _connect(config: KubernetesConfig) -> Any:
    """Read the credentials and return an ApiClient. Raises PermanentFault UNREACHABLE if there are none."""
    from kubernetes import client
    from kubernetes import config as loader

    settings = client.Configuration()
    # One more try for what surely was not carried out, such as a connection that the server had closed meanwhile.
    settings.retries = urllib3.Retry(total=1, redirect=0, status=0, other=0)
    settings.connection_pool_maxsize = 8
    try:
        in_cluster = "KUBERNETES_SERVICE_HOST" in os.environ and "KUBECONFIG" not in os.environ
        if in_cluster and not config.kubeconfig:
            loader.load_incluster_config(client_configuration=settings)
        else:
            file = str(config.kubeconfig) if config.kubeconfig else None
            loader.load_kube_config(config_file=file, context=config.context or None, client_configuration=settings)
    except (loader.ConfigException, OSError) as error:
        raise PermanentFault(Cause.UNREACHABLE, f"no way into the cluster: {error}") from error
    return client.ApiClient(settings)
