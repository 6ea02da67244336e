"""What came with a request of the LitServe door: parameters of the address in order, then the fields or the body."""

import asyncio
from typing import Any

import httpx
from fastapi import Request

from handlers.requests.request import Field, RawRequest
from serving.asgi_request import read


def asked(path: str, **options: Any) -> RawRequest:
    """Return what the door reads of a request as httpx would send it."""
    sent = httpx.Request("POST", f"http://door{path}", **options)
    headers = [(name.lower(), value) for name, value in sent.headers.raw]
    scope = {"type": "http", "method": "POST", "path": sent.url.path, "query_string": sent.url.query}

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": sent.read()}

    return asyncio.run(read(Request({**scope, "headers": headers}, receive)))


def test_parameters_that_are_repeated_all_come_in_their_order() -> None:
    found = asked("/predictions/m?top_k=1&note=gr%C3%B6%C3%9Fe&top_k=2&empty=", content=b"\xff\xd8")
    assert found.fields == [
        Field("top_k", b"1", is_file=False),
        Field("note", "größe".encode(), is_file=False),
        Field("top_k", b"2", is_file=False),
        Field("empty", b"", is_file=False),
        Field("body", b"\xff\xd8"),
    ]


def test_fields_of_a_form_come_after_the_parameters_of_the_address() -> None:
    found = asked("/v1/models/m:explain?a=1&a=2", data={"a": ["3", "4"]}, files={"b": b"\0\xe9"})
    assert [(field.name, field.value) for field in found.fields] == [
        *(("a", b"1"), ("a", b"2"), ("a", b"3"), ("a", b"4")),
        ("b", b"\0\xe9"),
    ]
    assert [field.is_file for field in found.fields] == [False] * 4 + [True]
    assert found.headers["explain"] == "True"
