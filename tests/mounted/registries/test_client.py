"""The client of registries by itself: silence, proxies, and what a registry's lists look like."""

from __future__ import annotations

import errno
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydock.overlay.reference import Reference
from pydock.overlay.registry.client import Registries
from pydock.overlay.registry.endpoint import Endpoint, Proxies
from pydock.overlay.registry.transfers import Transfers
from pydock.overlay.store import Store

if TYPE_CHECKING:
    from conftest import Faulty

Handler = Any


def client(place: Path, *, proxies: Proxies | None = None, silence: float = 30, insecure: bool = True) -> Registries:
    def endpoint(host: str) -> Endpoint:
        return Endpoint(host, insecure=insecure)

    return Registries(Store(place / "images"), endpoint, lambda: proxies or Proxies(), Transfers(), silence=silence)


@pytest.mark.parametrize("place", ["manifests/1", "blobs/LAYER"])
async def test_who_says_nothing_is_asked_three_times_and_then_is_etimedout(
    faulty: Faulty, tmp_path: Path, place: str
) -> None:
    manifest: dict[str, Any] = faulty.image("a", "1", faulty.layer(a=b"1"))
    path, over = f"/v2/a/{place}".replace("LAYER", manifest["layers"][0]["digest"]), threading.Event()
    faulty.answers[path] = lambda request: over.wait(60) and None
    try:
        with pytest.raises(OSError, match="does not answer") as failed:
            await client(tmp_path, silence=1).pull(Reference.parse(f"{faulty.host}/a:1"))
    finally:
        over.set()
    assert failed.value.errno == errno.ETIMEDOUT
    assert 3 <= len(faulty.asked(path)) <= 9


async def test_a_proxy_is_used_but_for_those_that_need_none(faulty: Faulty, elsewhere: Faulty, tmp_path: Path) -> None:
    faulty.image("a", "1", faulty.layer(a=b"1"))
    elsewhere.answer = faulty.answer_by_path  # type: ignore[method-assign]
    by_proxy = client(tmp_path, proxies=Proxies(http=elsewhere.host, https="http://127.0.0.1:9"))
    assert (await by_proxy.pull(Reference.parse("registry.invalid:5000/a:1"))).reference == "registry.invalid:5000/a:1"
    assert any(path.startswith("http://registry.invalid:5000/v2/") for _, path, _ in elsewhere.requests)
    none = client(tmp_path, proxies=Proxies(http="127.0.0.1:9", https="127.0.0.1:9", none="127.0.0.0/8"))
    assert (await none.pull(Reference.parse(f"{faulty.host}/a:1"))).reference == f"{faulty.host}/a:1"


async def test_lists_of_many_pages_are_read_to_the_end(faulty: Faulty, tmp_path: Path) -> None:
    def page(number: int, body: dict[str, object], path: str) -> Callable[[Handler], None]:
        def answer(request: Handler) -> None:
            following = (
                {"Link": f'<{path}?n=1000&last={number}>; rel="next"'} if f"last={number}" not in request.path else {}
            )
            faulty.reply(request, 200, json.dumps(body if following else {}).encode(), **following)

        return answer

    faulty.answers["/v2/_catalog"] = page(1, {"repositories": ["b", "a/c"]}, "/v2/_catalog")
    faulty.answers["/v2/b/tags/list"] = page(1, {"name": "b", "tags": ["2", "1"]}, "/v2/b/tags/list")
    assert await client(tmp_path).catalog(faulty.host) == ("a/c", "b")
    assert await client(tmp_path).tags(faulty.host, "b") == ("1", "2")
    assert len(faulty.asked("_catalog")) == 2


async def test_a_repository_without_tags_has_none(faulty: Faulty, tmp_path: Path) -> None:
    faulty.answers["/v2/b/tags/list"] = lambda request: faulty.reply(request, 200, b'{"name":"b","tags":null}')
    assert await client(tmp_path).tags(faulty.host, "b") == ()


async def test_plain_http_is_never_spoken_unless_it_is_allowed(faulty: Faulty, tmp_path: Path) -> None:
    faulty.image("a", "1", faulty.layer(a=b"1"))
    with pytest.raises(OSError, match="does not speak TLS") as failed:
        await client(tmp_path, insecure=False).pull(Reference.parse(f"{faulty.host}/a:1"))
    assert failed.value.errno == errno.EPROTO
    assert faulty.requests == []
