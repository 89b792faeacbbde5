"""Addresses that no database can look up: a NUL in a path or query is replaced as in bodies, before anybody reads it.

Django decodes `%00` to a NUL and hands it on, and PostgreSQL refuses it where it is compared (lone surrogates Django
replaces by itself).
"""

from collections.abc import Callable
from typing import Any

from asgiref.sync import iscoroutinefunction
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.utils.decorators import sync_and_async_middleware

from groups.texts import storable

REPLACED = "%EF%BF%BD"  # U+FFFD


def _clean(request: HttpRequest) -> None:
    if "\0" in request.path_info:
        request.path, request.path_info = storable(request.path), storable(request.path_info)
    if "%00" in request.META.get("QUERY_STRING", ""):
        request.META["QUERY_STRING"] = request.META["QUERY_STRING"].replace("%00", REPLACED)


@sync_and_async_middleware
def middleware(get_response: Callable[..., Any]) -> Callable[..., Any]:
    """Give what comes behind an address that it may look up."""
    if iscoroutinefunction(get_response):

        async def clean_async(request: HttpRequest) -> HttpResponseBase:
            _clean(request)
            response: HttpResponseBase = await get_response(request)
            return response

        return clean_async

    def clean_sync(request: HttpRequest) -> HttpResponseBase:
        _clean(request)
        response: HttpResponseBase = get_response(request)
        return response

    return clean_sync
