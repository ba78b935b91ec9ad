"""Where a server may connect to on behalf of callers: public addresses, and what is allowed.

Knows addresses and names, no protocol. The metadata addresses of clouds are never reached.
"""

import ipaddress
import re
from collections.abc import Callable, Sequence
from typing import Final

from lmaas.errors import ConfigError, InvalidInput
from lmaas.serving.http_client import check_address

NAME: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,252}[A-Za-z0-9])?")
REFUSED: Final = tuple(
    ipaddress.ip_network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "2001::/23", "2002::/16", "3fff::/20")
)
"""Special purposes that older versions of Python take for global, and Teredo's and 6to4's networks,
whose addresses lead to an IPv4 address."""
UNICAST: Final = ipaddress.ip_network("2000::/3")
"""All of IPv6 that is given to networks of the internet: so neither mapped nor NAT64 addresses."""

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class EgressPolicy:
    """Which addresses are outside.

    `allowed` are hosts by name, and addresses or networks (10.0.0.0/8), that may be reached
    although they are inside; `setting` is where they were said. Raises ConfigError for an entry
    that is neither.
    """

    def __init__(self, allowed: Sequence[str] = (), setting: str = "webhook_allow") -> None:
        self._setting = setting
        self._networks: list[Network] = []
        self._names: set[str] = set()
        for entry in allowed:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError as error:
                if not NAME.fullmatch(entry) or entry.replace(".", "").isdecimal():
                    raise ConfigError(
                        f"{setting} names hosts, addresses and networks; received {entry!r}: "
                        f"{error}.",
                        param=setting,
                    ) from None
                self._names.add(entry.lower())

    def check(self, host: str) -> Callable[[str], None]:
        """What refuses the addresses that `host` must not lead to, by InvalidInput."""
        trusted = host.lower() in self._names

        def check(text: str) -> None:
            check_address(text)
            address = _plain(text)
            allowed = trusted or any(
                address in network
                for network in self._networks
                if network.version == address.version
            )
            if not allowed and not is_public(address):
                raise InvalidInput(
                    f"{text} is an internal address.",
                    hint=f"The setting {self._setting} names what may be reached nevertheless.",
                    param="url",
                )

        return check


def is_public(address: Address) -> bool:
    """Whether anybody on the internet may have this address, and it is one machine's."""
    if address.version == 6 and address not in UNICAST:
        return False
    if any(address in network for network in REFUSED if network.version == address.version):
        return False
    return address.is_global and not (address.is_multicast or address.is_reserved)


def _plain(text: str) -> Address:
    """An address without its zone; an IPv4 address that was written as IPv6 as itself."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address
