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


def _told(request: HttpRequest, answer: HttpResponseBase) -> HttpResponseBase:
    if answer.status_code < 400 or not request.path_info.startswith("/api/") or answer.get("Content-Type") == TYPE:
        return answer
    if not isinstance(answer, HttpResponse):  # it streams, so it is none of Django's own errors
        return answer
    status = HTTPStatus(answer.status_code)
    words = f"Allowed here: {answer['Allow']}." if "Allow" in answer else status.description or status.phrase
    told = {"type": "about:blank", "title": status.phrase, "status": status.value, "detail": words}
    answer.content = json.dumps(told)
    answer["Content-Type"] = TYPE
    return answer


@sync_and_async_middleware
def middleware(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Put an error of the API into its form, whoever made it. The headers (Allow, Retry-After) stay."""
    if iscoroutinefunction(get_response):

        async def later(request: HttpRequest) -> HttpResponseBase:
            return _told(request, await get_response(request))

        return later

    def now(request: HttpRequest) -> HttpResponseBase:
        return _told(request, get_response(request))

    return now
