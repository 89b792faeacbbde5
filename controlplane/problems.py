"""Every error of the API is problem details (RFC 9457), also one that is found before the API is asked, or beside it:
a method that an address doesn't have, a host that is not ours, a fault in a middleware."""

import json
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

TYPE = "application/problem+json"


def _as_problem(request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
    if response.status_code < 400 or not request.path_info.startswith("/api/") or response.get("Content-Type") == TYPE:
        return response
    if not isinstance(response, HttpResponse):  # it streams, so it is none of Django's own errors
        return response
    status = HTTPStatus(response.status_code)
    words = f"Allowed here: {response['Allow']}." if "Allow" in response else status.description or status.phrase
    problem = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": words}
    response.content = json.dumps(problem)
    response["Content-Type"] = TYPE
    return response


@sync_and_async_middleware
def middleware(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Put an error of the API into its form, whoever made it. The headers (Allow, Retry-After) stay."""
    if iscoroutinefunction(get_response):

        async def middleware_async(request: HttpRequest) -> HttpResponseBase:
            return _as_problem(request, await get_response(request))

        return middleware_async

    def middleware_sync(request: HttpRequest) -> HttpResponseBase:
        return _as_problem(request, get_response(request))

    return middleware_sync
