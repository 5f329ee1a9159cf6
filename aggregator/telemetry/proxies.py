"""The HTTP proxy from the environment: `https_proxy`, `http_proxy` or `all_proxy`, with exceptions in `no_proxy`.

Names may be in lower or upper case, as with curl. Loopback addresses never go through a proxy.
"""

import ipaddress
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies_environment, proxy_bypass

from wire_contract.errors import LinkError


@dataclass(frozen=True)
class Proxy:
    """An HTTP proxy."""

    url: str
    """Its URL without user name and password."""
    headers: Mapping[str, str] = field(repr=False)
    """Credentials for the proxy."""

    @property
    def shown(self) -> str:
        """Its name in log lines."""
        return self.url


def proxy_for(url: str) -> Proxy | None:
    """The proxy for a server; None if there is none.

    Raises:
        LinkError: the environment names one that is not a proxy of HTTP.
    """
    server, proxies = urlsplit(url), getproxies_environment()
    host = server.hostname or ""
    given = proxies.get(server.scheme) or proxies.get("all")
    if not given or _is_loopback(host) or proxy_bypass(host):
        return None
    given = given if "://" in given else f"http://{given}"
    try:
        parts = urlsplit(given)
        known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port is not False
    except ValueError:
        known = False
    if not known:
        raise LinkError(f"the proxy of {server.scheme}_proxy or all_proxy: must be like http://proxy.example.org:3128")
    headers = {}
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["proxy-authorization"] = "Basic " + b64encode(login.encode()).decode()
    return Proxy(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}", headers)


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.partition("%")[0]).is_loopback
    except ValueError:
        return False
