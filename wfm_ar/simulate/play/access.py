"""Who may talk to the server: on this machine whoever is on it, but no other site's page; from outside only who has the token.

A page of another site can send requests to 127.0.0.1, and by DNS rebinding under a name of its own; what it cannot do is to leave the
Origin header out of a WebSocket or a POST, or to make its own name an address. So the Host must be an address, `localhost`, or the name
that was given as `host=`, and an Origin, where there is one, must be the Host.
"""

import hmac
import ipaddress
import secrets
from collections.abc import Mapping
from urllib.parse import urlsplit

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "media-src 'self' blob:; form-action 'none'; frame-ancestors 'none'; base-uri 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",  # the token stands in the page's address
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Access:
    """`refusal` says why a request is refused."""

    def __init__(self, host: str) -> None:
        """host: where the server listens. Beyond this machine a token is needed."""
        self.host, self.token = host, None if is_loopback(host) else secrets.token_urlsafe(24)

    def refusal(self, headers: Mapping[str, str], token: str, *, open_to_all: bool = False) -> str:
        """ "" for a request that may be answered. open_to_all: the page itself and its files, which hold no secret."""
        host = headers.get("Host", "")
        if not self._known(host):
            return f"Host: got {host!r:.80}, expected this server's address; fix: open the address that `wfm play` printed"
        origin = headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower():
            return f"Origin: got {origin!r:.80}, expected this server's own page; fix: open the address that `wfm play` printed"
        if headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none") and not open_to_all:
            return "Sec-Fetch-Site: got another site's page, expected this server's own; fix: open the address that `wfm play` printed"
        if self.token is not None and not open_to_all and not hmac.compare_digest(token.encode(), self.token.encode()):
            return "token: is missing or wrong, expected the one in the address that `wfm play` printed; fix: open that address"
        return ""

    def _known(self, host: str) -> bool:
        try:
            name = (urlsplit(f"//{host}").hostname or "").lower()
            ipaddress.ip_address(name)
        except ValueError:
            return bool(host) and "@" not in host and name_of(host) in ("localhost", self.host.lower())
        if self.token is None:  # a rebound name is no address, but another machine's address is none of ours either
            return is_loopback(name)
        return True


def name_of(host: str) -> str:
    """The name in a Host header, in small letters; "" where it is not one."""
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""
