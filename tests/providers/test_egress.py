"""Which addresses a config that came over REST may lead to."""

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping

import pytest

from llmops.errors import EndpointNotReady
from llmops.providers.egress import Egress, Resolve, host_of, kind

PUBLIC = "93.184.215.14"


def names(**known: Iterable[str]) -> Egress:
    """A rule that allows nothing special, in a world with these names (underscores for dots)."""
    return Egress(resolve=resolver({name.replace("_", "."): addresses for name, addresses in known.items()}))


def resolver(known: Mapping[str, Iterable[str]]) -> Resolve:
    async def resolve(host: str) -> Iterable[str]:
        if host not in known:
            raise OSError("Name or service not known")
        return known[host]

    return resolve


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1", "loopback"),
        ("127.255.255.254", "loopback"),
        ("::1", "loopback"),
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "unspecified"),
        ("::", "unspecified"),
        ("10.0.0.1", "private"),
        ("172.16.0.1", "private"),
        ("172.31.255.255", "private"),
        ("192.168.1.1", "private"),
        ("198.18.0.1", "private"),
        ("240.0.0.1", "private"),
        ("255.255.255.255", "private"),
        ("100.64.0.1", "shared (carrier-grade NAT)"),
        ("169.254.1.1", "link-local"),
        ("fe80::1", "link-local"),
        ("fe80::1%1", "link-local"),
        ("fec0::1", "site-local"),
        ("fc00::1", "unique-local"),
        ("fdff::1", "unique-local"),
        ("224.0.0.1", "multicast"),
        ("ff02::1", "multicast"),
        ("169.254.169.254", "metadata service"),
        ("169.254.170.2", "metadata service"),
        ("100.100.100.200", "metadata service"),
        ("168.63.129.16", "metadata service"),
        ("fd00:ec2::254", "metadata service"),
        ("fd20:ce::254", "metadata service"),
        ("::ffff:127.0.0.1", "loopback"),
        ("::ffff:10.0.0.1", "private"),
        ("::ffff:a9fe:a9fe", "metadata service"),
        ("::127.0.0.1", "loopback"),
        ("::ffff:0:127.0.0.1", "loopback"),
        ("2002:7f00:1::", "loopback"),
        ("2002:a9fe:a9fe::1", "metadata service"),
        ("64:ff9b::7f00:1", "loopback"),
        ("64:ff9b::a00:1", "private"),
        ("64:ff9b:1::a00:1", "private"),
        ("2001::1", "private"),
        ("2001:db8::1", "private"),
        (PUBLIC, None),
        ("172.32.0.1", None),
        ("100.128.0.1", None),
        ("2606:4700:4700::1111", None),
        ("::ffff:93.184.215.14", None),
        ("64:ff9b::5db8:d70e", None),
    ],
)
def test_every_address_has_its_kind(address: str, expected: str | None) -> None:
    assert kind(ipaddress.ip_address(address)) == expected


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://api.example.com/v1", "api.example.com"),
        ("http://API.Example.com:8080", "api.example.com"),
        ("https://my_host-1.corp?x=1", "my_host-1.corp"),
        ("http://10.0.0.1:1/v1", "10.0.0.1"),
        ("http://[::1]:8000/v1", "::1"),
        ("http://[0:0:0:0:0:0:0:1]/", "::1"),
        ("http://[::FFFF:127.0.0.1]/", "::ffff:127.0.0.1"),
        ("https://api.example.com/@127.0.0.1", "api.example.com"),
    ],
)
def test_a_plain_url_has_one_host(url: str, host: str) -> None:
    assert ipaddress.ip_address(host_of(url)) == ipaddress.ip_address(host) if ":" in host else host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "http://2130706433/",
        "http://0x7f000001/",
        "http://0x7f.1/",
        "http://0177.0.0.1/",
        "http://127.1/",
        "http://127.0.0.01/",
        "http://999.1.1.1/",
        "http://host.0x7f/",
        "http://localhost./",
        "http://127.0.0.1./",
        "http://api.example.com./",
        "http://user@127.0.0.1/",
        "http://api.example.com:80@127.0.0.1/",
        "http://api.example.com\\@127.0.0.1/",
        "http://api.example.com\\.evil/",
        "http://[fe80::1%25eth0]/",
        "http://[fe80::1%eth0]/",
        "http://[::1/",
        "http://[::zz]/",
        "http://１２７.0.0.1/",
        "http://127。0。0。1/",
        "http://①②⑦.0.0.1/",
        "http://lοcalhost/",
        "http://%31%32%37.0.0.1/",
        "http://127.0.0.1\t/",
        "http://127.0.0.1 /",
        "http:///127.0.0.1/",
        "http:127.0.0.1/",
        "ftp://127.0.0.1/",
        "http://api.example.com:٨٠/",
        "http://api.example.com:80:90/",
        "http://-/",
        "http://",
    ],
)
def test_a_url_that_can_be_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"written plainly|unusual way|not appear to be"):
        host_of(url)


def test_only_the_public_addresses_of_a_name_are_given() -> None:
    egress = names(mixed_example=["10.0.0.1", PUBLIC, "::1"])

    assert asyncio.run(egress.addresses("https://mixed.example/v1")) == (PUBLIC,)


@pytest.mark.parametrize(
    ("url", "kinds"),
    [
        ("http://inside.example/v1", "link-local or private"),
        ("http://localhost/v1", "loopback"),
        ("http://metadata.google.internal/computeMetadata/v1/", "metadata service"),
        ("http://169.254.169.254/latest", "metadata service"),
        ("http://[::ffff:10.0.0.1]/", "private"),
    ],
)
def test_a_place_inside_is_refused_by_its_kind_and_not_its_address(url: str, kinds: str) -> None:
    egress = names(inside_example=["10.9.8.7", "fe80::1"], localhost=["::1", "127.0.0.1"])

    with pytest.raises(EndpointNotReady) as caught:
        asyncio.run(egress.check(url))
    assert f"is {kinds}; a config that came over REST may lead there only if LLMOPS_ALLOWED_NETWORKS" in str(
        caught.value
    )
    assert "10.9.8.7" not in str(caught.value)


def test_a_name_without_an_address_passes_the_check_but_has_nowhere_to_go() -> None:
    asyncio.run(names().check("https://not-yet.example"))

    with pytest.raises(OSError, match="not known"):
        asyncio.run(names().addresses("https://not-yet.example"))


def test_a_label_longer_than_names_can_be_is_a_name_without_an_address() -> None:
    asyncio.run(Egress().check(f"https://{'a' * 70}.invalid"))

    with pytest.raises(OSError, match="not a name"):
        asyncio.run(Egress().addresses(f"https://{'a' * 70}.invalid"))


@pytest.mark.parametrize(
    ("allowed", "address", "expected"),
    [
        ("10.1.0.0/16", "10.1.2.3", None),
        ("10.1.0.0/16", "10.2.0.1", "private"),
        ("10.1.0.0/16", "::ffff:10.1.2.3", None),
        ("10.1.2.3", "10.1.2.3", None),
        ("10.1.2.3/16", "10.1.9.9", None),
        ("fd12::/16", "fd12::1", None),
        ("fd12::/16", "fd13::1", "unique-local"),
        ("169.254.169.254", "169.254.169.254", None),
    ],
)
def test_networks_that_the_operator_names_are_allowed(allowed: str, address: str, expected: str | None) -> None:
    assert Egress.read([allowed]).refuses(address) == expected


def test_a_server_on_loopback_allows_loopback_and_nothing_else() -> None:
    egress = Egress.read([], loopback=True)

    kinds = [
        egress.refuses(address) for address in ("127.0.0.1", "::1", "::ffff:127.0.0.1", "10.0.0.1", "169.254.169.254")
    ]
    assert kinds == [None, None, None, "private", "metadata service"]


def test_a_host_that_the_operator_names_is_trusted_by_that_name_alone() -> None:
    egress = Egress.read(["LLM.corp.example"])

    urls = (
        "http://llm.corp.example:8000/v1",
        "http://llm.CORP.example",
        "http://other.corp.example",
        "http://10.0.0.1",
    )
    assert [egress.trusts(url) for url in urls] == [True, True, False, False]
