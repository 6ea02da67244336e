"""Who may ask the page's server: only a page that it served itself, in a browser on this machine.

A page of another site could send requests to a loopback address too, by its name (cross-site request forgery) or by a
name that it has pointed here (DNS rebinding). The headers Host and Origin give both away; no page can set them.
"""

from urllib.parse import urlsplit

from monitoring.web.exchange import Refusal
from serving.host.ports import LOOPBACK

# Scripts, styles and requests only of this server; pictures also of the page's memory. No text becomes markup.
POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind}-src 'self'" for kind in ("script", "style", "connect")),
        "img-src 'self' blob: data:",
        "media-src blob:",
        *(f"{name} 'none'" for name in ("base-uri", "form-action", "frame-ancestors")),
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def check(method: str, host: str, origin: str | None) -> None:
    """Refuse a request of another site's page.

    Raises:
        Refusal: `host` is no name of this machine, or `origin` is another page; only a GET may have none.
    """
    if _name(host) not in LOOPBACK:
        raise Refusal(403, "ForeignHost", f"this page is only at {LOOPBACK[0]} and {LOOPBACK[1]}")
    if origin != f"http://{host}" and (origin is not None or method != "GET"):
        raise Refusal(403, "ForeignOrigin", "only this page itself may send requests here")


def _name(host: str) -> str | None:
    try:
        return urlsplit(f"//{host}").hostname
    except ValueError:
        return None
