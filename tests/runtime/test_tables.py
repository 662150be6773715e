"""The table of another engine, as nft shows it, is read for what that engine has."""

from __future__ import annotations

import pytest
from pydock.runtime.network.ports import Port
from pydock.runtime.network.tables import Other

SHOWN = """table inet pydock {
	comment "/srv/a b"
	map at4 {
		type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service
		elements = { 127.0.0.1 . udp . 5353 : 10.212.0.2 . 53 }
	}

	map at6 {
		type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service
		elements = { 2001:db8::1 . tcp . 1 : fd00::2 . 3,
			::1 . 6 . 2 : fd00::2 . 4 }
	}

	map any4 {
		type inet_proto . inet_service : ipv4_addr . inet_service
		elements = { tcp . 9000 : 10.212.0.2 . 90,
			17 . 9001 : 10.212.0.2 . 91 }
	}

	chain engine-0123abcd {
	}

	chain published {
		ip daddr 10.212.0.1 meta l4proto { tcp, udp } th dport 53 return
		ip6 daddr fd00::1 meta l4proto { tcp, udp } th dport 53 return
		ip6 daddr ::1 return
		fib daddr type local meta l4proto { tcp, udp, sctp } dnat ip to meta l4proto . th dport map @any4
		fib daddr type local sctp dport 100-164 dnat ip to 10.212.0.2
		ip6 daddr 2001:db8::1 meta l4proto tcp th dport 1000-1020 dnat ip6 to fd00::2
	}

	chain postrouting {
		type nat hook postrouting priority srcnat; policy accept;
		oifname "pd-*" ip saddr 127.0.0.0/8 counter packets 0 bytes 0 masquerade
		ip saddr 10.212.0.0/16 oifname != "pd-01234567" counter packets 0 bytes 0 masquerade
		ip saddr 10.212.0.0/16 oifname "pd-01234567" ct status dnat counter packets 0 bytes 0 masquerade
		ip6 saddr fd00::/64 oifname "pd-01234567" ct status dnat counter packets 0 bytes 0 masquerade
	}
}
"""


def test_what_is_published_there() -> None:
    assert Other("pydock", SHOWN).ports() == [
        Port("127.0.0.1", 5353, 5353, 1, "udp"),
        Port("2001:db8::1", 1, 1),
        Port("::1", 2, 2),
        Port("", 9000, 9000),
        Port("", 9001, 9001, 1, "udp"),
        Port("", 100, 100, 65, "sctp"),
        Port("2001:db8::1", 1000, 1000, 21),
    ]


def test_its_networks() -> None:
    other = Other("pydock", SHOWN)
    assert list(map(str, other.subnets())) == ["10.212.0.0/16", "fd00::/64"]
    assert other.gateways() == ["10.212.0.1", "fd00::1"]


@pytest.mark.parametrize(
    ("shown", "words"),
    [(SHOWN, "the pydock of /srv/a b"), ("table inet pydock {\n}\n", "another pydock (table inet pydock)")],
)
def test_whose_it_is(shown: str, words: str) -> None:
    assert str(Other("pydock", shown)) == words
