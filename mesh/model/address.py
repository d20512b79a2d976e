# SPDX-License-Identifier: Apache-2.0
"""IP addresses as the mesh means them: one address, one value, one family.

An IPv4-mapped IPv6 address (RFC 4291 2.5.5.2) is the IPv4 address: sockets show one peer under both
forms, and two values for one address would be two rows.
"""

from enum import IntEnum, unique
from ipaddress import AddressValueError, IPv4Address, IPv6Address, ip_address

from mesh.model.errors import InvalidAddressError

__all__ = [
    "Family",
    "IpAddress",
    "address_order",
    "family_of",
    "normalise_address",
    "parse_address",
    "parse_unicast_address",
]

IpAddress = IPv4Address | IPv6Address
"""Never IPv4-mapped and never with a zone: parse_address() and normalise_address() see to it."""


@unique
class Family(IntEnum):
    """The IP version; the number is the one that stands in the kernel's keys."""

    V4 = 4
    V6 = 6


def family_of(address: IpAddress) -> Family:
    """The family of an address."""
    return Family.V4 if isinstance(address, IPv4Address) else Family.V6


def address_order(address: IpAddress) -> tuple[int, int]:
    """A sort key over both families, which cannot be compared with each other as they are."""
    return address.version, int(address)


def normalise_address(address: IpAddress) -> IpAddress:
    """The IPv4 address of an IPv4-mapped one; anything else unchanged.

    Raises InvalidAddressError for an IPv6 address with a zone (RFC 4007): it means nothing on
    another node.
    """
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address.scope_id is not None:
            raise InvalidAddressError(
                f'"{address}" has a zone, which means nothing on another node', value=address
            )
    return address


def parse_address(text: str) -> IpAddress:
    """Read one IPv4 or IPv6 address. Raises InvalidAddressError with a sentence for the person."""
    try:
        return normalise_address(ip_address(text))
    except (AddressValueError, ValueError) as error:
        raise InvalidAddressError(
            f'"{text}" is not an IP address (IPv4 like 10.0.0.1 or IPv6 like fd00::1)', value=text
        ) from error


def parse_unicast_address(text: str) -> IpAddress:
    """Read an address that a workload, a service or a node may have.

    Raises InvalidAddressError where it is malformed, unspecified, loopback, multicast, link-local
    or the IPv4 broadcast address: none of them names one peer everywhere in the mesh.
    """
    address = parse_address(text)
    for kind, found in (
        ("the unspecified address", address.is_unspecified),
        ("a loopback address", address.is_loopback),
        ("a multicast address", address.is_multicast),
        ("a link-local address", address.is_link_local),
        ("the broadcast address", address == IPv4Address(0xFFFFFFFF)),
    ):
        if found:
            raise InvalidAddressError(f'"{text}" is {kind}; it names no one peer', value=text)
    return address
