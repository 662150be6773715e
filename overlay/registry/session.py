"""HTTP with one registry: authentication, redirects, retries, and what went wrong in words.

Credentials and tokens go to the registry's own origin and, for tokens, to the realm that it names; a redirect to any other
place is followed without them. A registry that is *insecure* is tried with TLS first, then without.

Failures are OSError with the errno that fits: EACCES (401, 403), ETIMEDOUT (silence), EBUSY (429, after waiting as told),
ECONNREFUSED and the like from the network, EHOSTUNREACH (a name that is unknown), EPROTO (TLS, or what is not HTTP), EREMOTEIO
(a fault of the registry: 5xx); or NotFound (404), Invalid (400 and others).
"""

from __future__ import annotations

import email.utils
import errno
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from types import TracebackType
from typing import Final, Self

import httpx2
import msgspec
import trio
from pydock.overlay.errors import Invalid, NotFound
from pydock.overlay.registry.authentication import Challenge, TokenAnswer, basic, challenges
from pydock.overlay.registry.endpoint import Endpoint, Proxies

#: Seconds of silence before it is asked again, and how often: a minute in all.
SILENCE: Final = 20.0
TRIES: Final = 3
#: A registry may take its time for what ends an upload.
PATIENCE: Final = 300.0
_PAUSES: Final = (0.25, 0.5, 1.0, 2.0)
_LONGEST_WAIT: Final = 60.0  # seconds that a Retry-After is obeyed for
_REDIRECTS: Final = 5
_ERROR_BYTES: Final = 64 << 10
_WORDS: Final = 300


class Cut(OSError):
    """The connection ended, or nothing came, in the middle: it may be tried again."""


class _Fault(msgspec.Struct, frozen=True):
    code: str = ""
    message: str = ""


class _Faults(msgspec.Struct, frozen=True):
    errors: tuple[_Fault, ...] = ()


class Session:
    """Talks to *endpoint*; an asynchronous context manager."""

    def __init__(self, endpoint: Endpoint, proxies: Proxies, *, silence: float = SILENCE) -> None:
        self.endpoint = endpoint
        self._proxies = proxies
        self._silence = silence
        self._stack = AsyncExitStack()
        self._clients: dict[str, httpx2.AsyncClient] = {}
        self._authorization: dict[str, tuple[str, float]] = {}  # by scope: the header and its end in time.monotonic()
        self._base: httpx2.URL | None = None
        self._lock = trio.Lock()

    async def __aenter__(self) -> Self:
        await self._stack.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with trio.CancelScope(shield=True):
            await self._stack.aclose()

    async def url(self, path: str) -> httpx2.URL:
        """The URL of *path*, which begins with a slash, at the registry."""
        async with self._lock:
            if self._base is None:
                self._base = await self._find_base()
        return self._base.join(path)

    async def ping(self) -> None:
        """Whether it answers, and takes the credentials. EACCES and the other failures."""
        async with self.request("GET", await self.url("/v2/"), scope=""):
            pass

    @asynccontextmanager
    async def request(
        self,
        method: str,
        url: httpx2.URL,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        body: Callable[[], AsyncIterator[bytes]] | bytes | None = None,
        accept: frozenset[int] = frozenset(),
        patience: float | None = None,
    ) -> AsyncIterator[httpx2.Response]:
        """The answer, of which only the head has been read: 2xx, or a status in *accept*. *scope* is what a token has to allow.

        Asked again after 429, 5xx, silence and cut connections, if there is no body that is used up by then.
        """
        tries = 0
        while True:
            tries += 1
            try:
                response = await self._once(method, url, scope, headers or {}, body, patience or self._silence)
            except Cut as error:
                if tries >= TRIES or callable(body):
                    raise OSError(error.errno, error.strerror) from None
                await trio.sleep(_PAUSES[tries - 1])
                continue
            if response.status_code == 429 or response.status_code >= 500:
                pause = _retry_after(response)
                if tries <= len(_PAUSES) and not callable(body) and (pause is None or pause <= _LONGEST_WAIT):
                    await response.aclose()
                    await trio.sleep(_PAUSES[tries - 1] if pause is None else pause)
                    continue
            break
        try:
            if not response.is_success and response.status_code not in accept:
                await self._refuse(response)
            yield response
        finally:
            with trio.CancelScope(shield=True):
                await response.aclose()

    async def read(self, response: httpx2.Response, limit: int, what: str) -> bytes:
        """The rest of an answer, which is a document. Invalid for one of more than *limit* bytes; Cut."""
        data = bytearray()
        async for chunk in self.chunks(response):
            data += chunk
            if len(data) > limit:
                raise Invalid(f"{what} is larger than the {limit} bytes that are sensible")
        return bytes(data)

    async def chunks(self, response: httpx2.Response) -> AsyncIterator[bytes]:
        """The rest of an answer. Cut when it ends early."""
        try:
            async for chunk in response.aiter_raw():
                yield chunk
        except httpx2.TransportError as error:
            raise self._failure(error) from None

    # -- inside

    async def _find_base(self) -> httpx2.URL:
        secure = httpx2.URL(f"https://{self.endpoint.address}/")
        if not self.endpoint.insecure:
            return secure
        try:
            response = await self._send("GET", secure.join("/v2/"), {}, None, self._silence)
        except OSError as error:
            if error.errno == errno.ETIMEDOUT:
                raise
            return httpx2.URL(f"http://{self.endpoint.address}/")
        await response.aclose()
        return secure

    async def _client(self, url: httpx2.URL) -> httpx2.AsyncClient:
        origin = _origin(url)
        client = self._clients.get(origin)
        if client is None:
            own = url.host == httpx2.URL(f"https://{self.endpoint.address}/").host
            context: ssl.SSLContext | bool = False
            if url.scheme == "https":
                context = await trio.to_thread.run_sync(self.endpoint.tls if own else ssl.create_default_context)
            proxy = self._proxies.of(url.scheme, url.host if url.port is None else f"{url.host}:{url.port}")
            try:
                client = httpx2.AsyncClient(
                    verify=context,
                    proxy=proxy,
                    trust_env=False,
                    follow_redirects=False,
                    limits=httpx2.Limits(max_connections=16),
                    headers={"User-Agent": "pydock"},
                )
            except (ValueError, httpx2.InvalidURL) as error:
                raise Invalid(f"the proxy {proxy}: {error}") from None
            self._clients[origin] = await self._stack.enter_async_context(client)
        return client

    async def _once(
        self,
        method: str,
        url: httpx2.URL,
        scope: str,
        headers: Mapping[str, str],
        body: Callable[[], AsyncIterator[bytes]] | bytes | None,
        silence: float,
    ) -> httpx2.Response:
        """One answer, after what authentication and redirects it takes."""
        base = await self.url("/")
        asked = redirects = 0
        while True:
            own = _origin(url) == _origin(base)
            sent = dict(headers)
            if own and (authorization := self._known(scope)):
                sent["Authorization"] = authorization
            response = await self._send(method, url, sent, body, silence)
            if response.status_code == 401 and own and not asked:
                asked += 1
                await response.aclose()
                await self._authenticate(response, scope)
            elif response.is_redirect and method in ("GET", "HEAD"):
                await response.aclose()
                redirects += 1
                following = url.join(response.headers["Location"])
                if redirects > _REDIRECTS:
                    raise OSError(errno.EREMOTEIO, f"{self.endpoint.host} redirects again and again")
                if following.scheme not in (
                    "https",
                    "http" if url.scheme == "http" or self.endpoint.insecure else "https",
                ):
                    raise OSError(
                        errno.EPROTO, f"{self.endpoint.host} redirects to {following.scheme}, which is not safe"
                    )
                url = following
            else:
                return response

    async def _send(
        self,
        method: str,
        url: httpx2.URL,
        headers: Mapping[str, str],
        body: Callable[[], AsyncIterator[bytes]] | bytes | None,
        silence: float,
    ) -> httpx2.Response:
        client = await self._client(url)
        request = client.build_request(
            method,
            url,
            headers={"Accept-Encoding": "identity", **headers},
            content=body() if callable(body) else body,
            timeout=httpx2.Timeout(silence, pool=None),
        )
        try:
            return await client.send(request, stream=True)
        except httpx2.TransportError as error:
            raise self._failure(error) from None
        except (httpx2.InvalidURL, UnicodeError) as error:
            raise Invalid(f"{self.endpoint.host}: {error}") from None

    def _known(self, scope: str) -> str:
        header, end = self._authorization.get(scope, ("", 0.0))
        return header if end > time.monotonic() else ""

    async def _authenticate(self, response: httpx2.Response, scope: str) -> None:
        """Get what the challenge asks for."""
        asked = [each for header in response.headers.get_list("WWW-Authenticate") for each in challenges(header)]
        host, endpoint = self.endpoint.host, self.endpoint
        for challenge in asked:
            if challenge.scheme == "bearer" and challenge.get("realm"):
                answer = await self._token(challenge, scope)
                end = time.monotonic() + max(answer.expires_in, 60) - 5
                self._authorization[scope] = (f"Bearer {answer.value}", end)
                return
            if challenge.scheme == "basic" and endpoint.username:
                self._authorization[scope] = (basic(endpoint.username, endpoint.password), float("inf"))
                return
        if endpoint.username and asked:
            raise OSError(errno.EACCES, f"{host} wants {asked[0].scheme} authentication, which is not known here")
        raise OSError(
            errno.EACCES,
            f"{host} wants a login: write username and password to registries/{host}, and login to its ctl",
        )

    async def _token(self, challenge: Challenge, scope: str) -> TokenAnswer:
        host, endpoint = self.endpoint.host, self.endpoint
        realm = httpx2.URL(challenge.get("realm"))
        if realm.scheme not in ("https", "http" if endpoint.insecure else "https"):
            raise OSError(errno.EACCES, f"{host} sends for a token to {realm.scheme}, which is not safe")
        service = challenge.get("service")
        if endpoint.token:
            form = {"grant_type": "refresh_token", "refresh_token": endpoint.token, "service": service, "scope": scope}
            form["client_id"] = "pydock"
            body = str(httpx2.QueryParams(form)).encode()
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            response = await self._send("POST", realm, headers, body, self._silence)
        else:
            query = [*realm.params.multi_items(), ("service", service), *(("scope", each) for each in scope.split())]
            headers = {}
            if endpoint.username:
                headers["Authorization"] = basic(endpoint.username, endpoint.password)
                query.append(("account", endpoint.username))
            response = await self._send("GET", realm.copy_with(params=query), headers, None, self._silence)
        try:
            if not response.is_success:
                await self._refuse(response)
            data = await self.read(response, 1 << 20, f"the token of {host}")
        finally:
            await response.aclose()
        try:
            answer = msgspec.json.decode(data, type=TokenAnswer)
        except (msgspec.DecodeError, UnicodeDecodeError):
            answer = TokenAnswer()
        if not answer.value:
            raise OSError(errno.EREMOTEIO, f"{realm.host} gives no token for {host}")
        return answer

    async def _refuse(self, response: httpx2.Response) -> None:
        """Raise what a status of failure means."""
        host, status = self.endpoint.host, response.status_code
        words = ""
        try:
            data = await self.read(response, _ERROR_BYTES, "the answer")
            faults = msgspec.json.decode(data, type=_Faults).errors
            words = "; ".join(filter(None, (fault.message or fault.code for fault in faults)))[:_WORDS]
        except (OSError, Invalid, msgspec.DecodeError, UnicodeDecodeError):
            words = ""
        told = f"{host}: {words or response.reason_phrase or 'no reason given'} (status {status})"
        if status == 401:
            who = (
                f"does not take the credentials of {self.endpoint.username}"
                if self.endpoint.username
                else "wants a login"
            )
            raise OSError(errno.EACCES, f"{host} {who}, or there is no such repository: {words or 'unauthorized'}")
        if status == 403:
            raise OSError(errno.EACCES, told)
        if status == 404:
            raise NotFound(told)
        if status == 429:
            raise OSError(errno.EBUSY, told)
        if status >= 500:
            raise OSError(errno.EREMOTEIO, told)
        raise Invalid(told)

    def _failure(self, error: httpx2.TransportError) -> OSError:
        """What a failure of the connection means."""
        host = self.endpoint.host
        cause = _cause(error)
        if isinstance(error, httpx2.TimeoutException):
            return Cut(errno.ETIMEDOUT, f"{host} does not answer")
        if isinstance(error, httpx2.ProxyError):
            return OSError(errno.EREMOTEIO, f"the proxy for {host}: {error}")
        if isinstance(cause, ssl.SSLCertVerificationError):
            words = f"{host}: its certificate is not trusted: {cause.verify_message}: write the authority's to registries/{host}/ca.crt"
            return OSError(errno.EPROTO, words)
        if isinstance(cause, ssl.SSLError):
            words = f"{host} does not speak TLS as it should ({cause.reason}); for plain HTTP, write 1 to registries/{host}/insecure"
            return OSError(errno.EPROTO, words)
        if isinstance(cause, socket.gaierror):
            return OSError(errno.EHOSTUNREACH, f"{host}: the name is not known: {cause.strerror}")
        if isinstance(error, httpx2.ConnectError):
            number = cause.errno if isinstance(cause, OSError) and cause.errno else errno.EHOSTUNREACH
            return OSError(number, f"{host}: {os.strerror(number)}")
        if isinstance(error, httpx2.RemoteProtocolError | httpx2.NetworkError):
            return Cut(errno.ECONNRESET, f"{host} ends the connection early")
        return OSError(errno.EPROTO, f"{host}: {error}")


def _cause(error: BaseException) -> BaseException:
    """What lies at the bottom: of several, as after a try of each address, the first."""
    seen: BaseException = error
    while True:
        if isinstance(seen, BaseExceptionGroup):
            following: BaseException | None = seen.exceptions[0]
        elif isinstance(seen, ssl.SSLError | socket.gaierror):
            return seen
        else:
            following = seen.__cause__ or seen.__context__
        if following is None:
            return seen
        seen = following


def _origin(url: httpx2.URL) -> str:
    return f"{url.scheme}://{url.host}:{url.port or (443 if url.scheme == 'https' else 80)}"


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds that the answer asks to wait (RFC 9110, 10.2.3); None when it does not say."""
    text = response.headers.get("Retry-After", "")
    try:
        return max(0.0, float(text))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None
