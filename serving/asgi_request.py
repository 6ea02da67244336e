"""A request to the LitServe server, in the form in which TorchServe passes one to its worker."""

from fastapi import Request

from handlers.requests.request import MULTIPART, URLENCODED, Field, RawRequest

LARGEST_PART = 2**30  # bytes of a text field: the server limits the whole


async def read(request: Request) -> RawRequest:
    """Return its headers, and its fields in order: parameters of the address, then those of a form, or the body."""
    path = request.url.path
    headers = {**request.headers, "explain": str(path.startswith("/explanations/") or path.endswith(":explain"))}
    fields = [Field(name, value.encode(), is_file=False) for name, value in request.query_params.multi_items()]
    content_type = headers.get("content-type", "")
    is_form = "boundary=" in content_type if content_type.lower().startswith(MULTIPART) else URLENCODED in content_type
    if not is_form or headers.get("content-encoding", "identity") != "identity":
        return RawRequest(headers, [*fields, Field("body", await request.body())])
    async with request.form(max_part_size=LARGEST_PART) as form:
        for name, value in form.multi_items():
            if isinstance(value, str):
                fields.append(Field(name, _bytes(value), is_file=False))
            else:
                fields.append(Field(name, await value.read()))
    return RawRequest(headers, fields)


def _bytes(text: str) -> bytes:
    """Return the bytes of a text field: an image arrives decoded as Latin-1, the only text that contains a NUL."""
    return text.encode("latin-1", "replace") if "\0" in text else text.encode()
