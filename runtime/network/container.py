"""The network of one container: none, the machine's, another container's, or links to networks; and how that changes while it runs."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack, ExitStack, suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import trio
from pydock.runtime import syscalls
from pydock.runtime.errors import Busy, Invalid, NotFound, PydockError, words_of
from pydock.runtime.formats import quote
from pydock.runtime.network import conntrack, links, loopback, versions
from pydock.runtime.network.attaching import Attachments, Leases, shown
from pydock.runtime.network.links import Pair
from pydock.runtime.network.naming import Naming
from pydock.runtime.network.ports import AUTO, Port, exposed, parse_kept, print_kept
from pydock.runtime.network.record import Lease, NetworkRecord, link_name
from pydock.runtime.network.words import DEFAULT, Membership, is_shared, joined, memberships, others
from pydock.runtime.tasks import nothing, shielded, side_by_side

if TYPE_CHECKING:
    from pydock.runtime.confine.userns import IdMap
    from pydock.runtime.container import Container
    from pydock.runtime.spec import Spec


class ContainerNetwork:
    """That of *container*. *lock* orders what changes its links: a start, a change of the setting."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self.lock = trio.Lock()
        self._over = False  # its run has ended, though that may not have been written down yet
        self._gone = False  # it has been removed
        self.naming = Naming(container)

    @property
    def _attachments(self) -> Attachments:
        return self._container.engine.attachments

    async def prepare(self, stack: ExitStack, ids: IdMap | None) -> tuple[int | None, Callable[[], Awaitable[None]]]:
        """What a start joins, and a call that makes its links meanwhile. It joins a descriptor of a network namespace, or of a process
        in it, which *stack* closes; None when it makes one of its own, or is in the machine's. NotFound, Busy, Invalid, OSError."""
        container = self._container
        if (name := joined(container.spec.network)) is not None:
            descriptor = os.dup(self._neighbour(name))
            stack.callback(os.close, descriptor)
            return descriptor, nothing
        wanted = memberships(container.spec.network)
        if not wanted:
            return None, nothing
        versions.check(self._attachments.store.get(each.network) for each in wanted)
        leases = await self._attachments.lease(container.id, wanted)
        if ids is not None:
            return None, partial(self._connect_born, leases, wanted)
        pair = await self._attachments.pool.take()
        stack.callback(os.close, pair.namespace)
        stack.callback(pair.close)
        return pair.namespace, partial(self._connect, pair.namespace, leases, wanted, pair)

    async def _connect(
        self, namespace: int, leases: Leases, wanted: tuple[Membership, ...], pair: Pair | None = None
    ) -> None:
        identity = self._container.id
        await side_by_side(
            partial(self._attachments.connect, identity, namespace, leases, wanted, pair),
            partial(self._attachments.keep, leases),
        )
        await self._attachments.store.forget(identity, frozenset(each.network for each in wanted))
        if self._container.spec.ports:
            await self._lead_back()  # the bridge may be new

    async def _connect_born(self, leases: Leases, wanted: tuple[Membership, ...]) -> None:
        """In a user namespace it has a network namespace from birth: nobody else's would be its own to look at."""
        pidfd = syscalls.pidfd_open(await self._container.process.born())
        try:
            namespace = await trio.to_thread.run_sync(links.namespace_of, pidfd)
        finally:
            os.close(pidfd)
        try:
            await self._connect(namespace, leases, wanted)
        finally:
            os.close(namespace)

    def _neighbour(self, name: str) -> int:
        found = self._container.engine.find(name)
        if found is None:
            raise NotFound(f"network: there is no container {quote(name)}")
        if found.name == self._container.name:
            raise Invalid(f"network: {name} can't join itself")
        if found.state not in ("running", "paused") or found.pidfd < 0:
            raise Busy(f"network: {name} is not running: it is {found.state}")
        return found.pidfd

    async def change(self, keep: Callable[[], Awaitable[None]], **settings: tuple[str, ...] | None) -> None:
        """Some of the *settings* ``network``, ``ports``, ``dns`` and ``hosts`` become these, which *keep* keeps: in the running
        container at once, or not at all."""
        async with self.lock:
            await self.apply(keep, **settings)

    async def apply(self, keep: Callable[[], Awaitable[None]], **settings: tuple[str, ...] | None) -> None:
        """``change``, by who has the lock."""
        try:
            await self._apply(keep, settings)
        finally:
            if self._gone:  # meanwhile
                with trio.CancelScope(shield=True):
                    await self.gone()()

    async def _apply(self, keep: Callable[[], Awaitable[None]], settings: dict[str, tuple[str, ...] | None]) -> None:
        container = self._container
        before = container.spec
        spec = replace(before, **settings)  # type: ignore[arg-type]
        present, wanted = memberships(before.network), memberships(spec.network)
        for each in wanted:
            if each.network != DEFAULT:
                self._attachments.store.find(each.network)
        if self._over or not container.record.pid:
            await keep()
            await self._give_back(wanted)()
            return
        if spec.network != before.network and (is_shared(spec.network) or is_shared(before.network)):
            container.configuration.refuse_alive("network")
        with self._attachments.claims.held(container.id):
            async with AsyncExitStack() as undo:
                namespace = await self._join(present, wanted, undo)
                if wanted and (spec.ports != before.ports or not present):
                    await self._republish(spec.ports or (), undo)
                elif not wanted and self._attachments.claims.of(container.id):
                    await self._republish((), undo)
                undo.push_async_callback(shielded, partial(self._refresh, before))
                await self._refresh(spec)
                await keep()
                undo.pop_all()
        with trio.CancelScope(shield=True):
            if namespace is not None:
                container.readdressed()
                await self._leave(namespace, present, wanted)
                container.engine.firewalls.ask(container.engine.spawn)
            await self.named_anew(joining=True)
            if namespace is not None:
                await container.engine.on_networks(container.name)

    async def _join(
        self, present: tuple[Membership, ...], wanted: tuple[Membership, ...], undo: AsyncExitStack
    ) -> int | None:
        """Connect to what is *wanted* and not *present*; a descriptor of its namespace, None when nothing is to be done. Busy."""
        container = self._container
        fresh = others(wanted, present)
        gone = {each.network for each in others(present, wanted)}
        if changed := gone & {each.network for each in fresh}:
            names = ", ".join(sorted(changed))
            raise Busy(f"network: its addresses in {names} can't be changed while it runs: leave it first")
        if not fresh and not gone:
            return None
        namespace = await self._namespace()

        async def part() -> None:
            try:
                if fresh:
                    await self._attachments.leave(container.id, namespace, fresh, present)
            finally:
                os.close(namespace)

        undo.push_async_callback(shielded, part)
        if fresh:
            leases = await self._attachments.lease(container.id, fresh)
            await self._attachments.keep(leases)
            await self._attachments.filter()
            await self._attachments.connect(container.id, namespace, leases, wanted)
        return namespace

    async def _namespace(self) -> int:
        """That of its process: a descriptor. OSError when it has ended."""
        pidfd = os.dup(self._container.process.pidfd)  # whose number may be another's before the thread has its turn
        try:
            return await trio.to_thread.run_sync(links.namespace_of, pidfd)
        finally:
            os.close(pidfd)

    async def _leave(self, namespace: int, present: tuple[Membership, ...], wanted: tuple[Membership, ...]) -> None:
        container = self._container
        try:
            await self._attachments.leave(container.id, namespace, others(present, wanted), wanted)
        finally:
            os.close(namespace)
        if self._attachments.claims.of(container.id):
            self._attachments.claims.lead_elsewhere(container.id)
            await self._lead()

    def gone(self) -> Callable[[], Awaitable[None]]:
        """It has been removed: its addresses, and any port, are others' from now on. What is given is to be done then."""
        self._gone = True
        self._attachments.claims.release(self._container.id)
        self.naming.forget()
        return self._give_back(())

    def _give_back(self, wanted: tuple[Membership, ...]) -> Callable[[], Awaitable[None]]:
        """It does not run, and has no addresses any more but those in what is *wanted*; what is given removes its links, which may be
        there as long as somebody is in its namespace who had joined that."""
        store, identity = self._attachments.store, self._container.id
        left = store.give_back(identity, frozenset(each.network for each in wanted))

        async def clear() -> None:
            for network in left:
                with suppress(OSError):  # it goes with its namespace in this moment
                    await trio.to_thread.run_sync(links.remove_link, link_name(network, identity))
                await store.save(network)

        return clear

    # ports

    async def publish(self) -> Callable[[], Awaitable[None]]:
        """Claim what ``ports`` say for a run that is about to begin, and have the packet filter know its networks. Taken, Invalid,
        OSError; then nothing is claimed. What is given has packets led to it, which its program need not wait for: it fails like this,
        and the run with it, for ``unpublish`` to clear."""
        container, attachments = self._container, self._attachments
        self._over, container.record.ports = False, ()
        ports = container.spec.ports or ()
        if not memberships(container.spec.network):
            if ports:
                raise Invalid(
                    "ports: there is no network to publish them from: write bridge, or a network's name, to network"
                )
            return nothing
        container.engine.firewalls.ask(container.engine.spawn)
        if not attachments.knows_networks():
            await attachments.filter()
        if not ports:
            return nothing
        await self._claim(ports)
        attachments.held_back.add(container.id)
        return self._lead_first

    async def _claim(self, items: tuple[str, ...]) -> None:
        """Have what *items* say; what it has of that already stays as it is. Nothing when its run ends meanwhile."""
        container, claims = self._container, self._attachments.claims
        had, kept, fresh = list(claims.of(container.id)), [], []
        for wanted in _expanded(items, container):
            found = next((each for each in had if wanted.is_had_by(each)), None)
            if found is None:
                fresh.append(wanted)
            else:
                had.remove(found)
                kept.append(found)
        async with claims.lock:
            bound = await trio.to_thread.run_sync(claims.find, fresh, kept, container.id)
            if not self._over:
                claims.adopt(container.id, bound)
                container.record.publish(tuple(map(print_kept, bound)))

    async def _lead_first(self) -> None:
        try:
            await self._lead()
        except BaseException:  # nobody else is to fail for them
            self._attachments.claims.release(self._container.id)
            raise

    async def unpublish(self) -> None:
        """The run has ended: its names are nobody's, and when this returns its ports are free. Whoever changes them at the moment sees
        that it is over, and is not waited for."""
        self._over = True
        self.naming.forget()
        container, claims = self._container, self._attachments.claims
        self._attachments.held_back.discard(container.id)
        if container.record.ports:
            claims.adopt(
                container.id, map(parse_kept, container.record.ports)
            )  # they aren't known when pydockd was away
            claims.release(container.id)
            container.record.ports = ()
            if not container.engine.adopted.is_set():
                return  # the packet filter is made when all claims are known
            try:
                await self._lead()
            except (OSError, PydockError) as error:
                container.failed(f"ports: the packet filter leads them on yet: {words_of(error)}")

    async def _republish(self, items: tuple[str, ...], undo: AsyncExitStack) -> None:
        """The ports of the running container become *items*. Taken, Invalid, OSError."""
        container, claims = self._container, self._attachments.claims
        before, recorded = claims.of(container.id), container.record.ports

        async def restore() -> None:
            if self._over:
                return
            claims.adopt(container.id, before)
            container.record.publish(recorded)
            await self._lead()
            await container.keep()

        undo.push_async_callback(shielded, restore)
        await self._claim(items)
        await self._lead()
        await container.save()

    async def _lead(self) -> None:
        """Have the machine lead packets where the claims say. OSError."""
        claims = self._attachments.claims
        await self._attachments.filter(leading=self._container.id)
        if claims.of(self._container.id):
            await self._lead_back()
        if moved := claims.take_moved():
            self._container.engine.spawn(partial(trio.to_thread.run_sync, conntrack.forget, moved))

    async def _lead_back(self) -> None:
        """Have answers from its ports reach the machine's ::1. OSError."""
        first = self._leading()
        if first is not None and first[0].subnet6 and loopback.is_led_on():
            await trio.to_thread.run_sync(loopback.lead_back, first[0].bridge)

    def adopt(self) -> None:
        """It goes on after pydockd was away: its ports and names are its own."""
        self.naming.note()
        if self._container.record.ports:
            self._attachments.claims.adopt(self._container.id, map(parse_kept, self._container.record.ports))

    async def agree(self) -> None:
        """After ``adopt``: have the links and ports that its settings say, where a death came between. A lease is on disk before its
        link is made, and after it has gone."""
        container = self._container
        wanted = memberships(container.spec.network)
        names = {each.network for each in wanted}
        left = [each.name for each in self._attachments.store if each.name not in names and container.id in each.leases]
        if left:
            namespace = await self._namespace()
            try:
                await self._attachments.leave(container.id, namespace, tuple(map(Membership, left)), wanted)
            finally:
                os.close(namespace)
        if container.record.ports or (wanted and container.spec.ports):
            await self._claim(container.spec.ports or () if wanted else ())

    def _leading(self) -> tuple[NetworkRecord, Lease] | None:
        """What published ports lead to: the first network that has a way out, and its lease there."""
        found = self._attachments.addresses(self._container.id, memberships(self._container.spec.network))
        return next((each for each in found if not each[0].internal), found[0] if found else None)

    def targets(self) -> tuple[str, ...]:
        """Its addresses that published ports lead to."""
        first = self._leading()
        return () if first is None else tuple(first[1].addresses)

    # what is to be seen

    def bound(self) -> list[str]:
        """The ports of the machine that it has, while it runs."""
        if not self._container.record.pid:
            return []
        return [text.partition(" ")[0] for text in self._container.record.ports]

    def addresses(self) -> list[str]:
        """``NETWORK ADDRESS/BITS MAC`` a line, while it runs."""
        container = self._container
        if not container.record.pid:
            return []
        found = self._attachments.addresses(container.id, memberships(container.spec.network))
        return [line for network, lease in found for line in shown(network, lease)]

    async def refresh(self) -> None:
        """The networks of the container that it has joined have changed. OSError."""
        async with self.lock:
            await self._refresh()
        await self._container.engine.on_networks(self._container.name)

    async def renamed(self) -> None:
        """It has another name."""
        async with self.lock:
            await self.named_anew(joining=True)
        await self.refresh()

    async def named_anew(self, *, joining: bool = False) -> None:
        """Tell its names, if it runs. With the lock."""
        if self._container.record.pid and not self._over:
            await self.naming.tell(joining=joining)

    async def _refresh(self, spec: Spec | None = None) -> None:
        """Have its files say what holds now, or is about to, if it runs. OSError."""
        try:
            if not self._over:
                await self.naming.refresh(spec)
        except FileNotFoundError:
            if not self._over:  # else they went in this moment
                raise


def _expanded(items: tuple[str, ...], container: Container) -> list[Port]:
    """*items* as ports, ``auto`` as what the image exposes."""
    found: list[Port] = []
    for item in items:
        ports = exposed(container.defaults().ports) if item == AUTO else [Port.parse(item)]
        for port in ports:
            found += [port] if port.host else port.single()
    return list(dict.fromkeys(found))
