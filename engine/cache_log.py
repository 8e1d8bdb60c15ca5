"""What the prefix cache of a worker holds, kept so that routers can be told. Pure.

    BlockPool --(name, parent | None)--> CacheLog --take()--> CacheEvents to all routers
                                                  --dump()--> CacheDump to one that asks

The pool reports every name that can be found from now on with its parent's, and every name that
cannot any more. Here, a block is *reachable* when its parent is, which is what `BlockPool.match`
finds; routers are told of these only. Nearly always all are: children are evicted before their
parents. A gap arises when a running sequence computed a duplicate of a block and went on from it
while the block that is found under this name was evicted; it closes when the duplicate takes over.

Lives on the I/O thread, fed with what the engine thread published; so a dump of a large cache
delays no step.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from baton.protocol.cache_events import CacheDump, CacheEvents, pack_names, short_name

FIRST = b""
"""The parent of a chain's first block."""

CacheChange = tuple[bytes, bytes | None]
"""A name that can be found from now on and its parent's (`FIRST` for none); or a name and None: it
cannot be found any more."""

PART_NAMES = 4096
"""Names in a part of a dump: 32 KiB, half a millisecond of a router's time."""


class CacheLog:
    def __init__(self, part_names: int = PART_NAMES) -> None:
        self._part_names = part_names
        self._parents: dict[bytes, bytes] = {}
        """Of all names that the pool has."""
        self._children = _Children()
        """Those of `_parents` but first blocks, by their parent, which the pool may not have."""
        self._hidden: set[bytes] = set()
        """Those of `_parents` that lie behind a gap."""
        self._pending: dict[bytes, bool] = {}
        """Reachable now and not at the last batch, or the reverse."""
        self._sequence = 0
        self._dumps = 0

    @property
    def sequence(self) -> int:
        """Of the last batch; 0 before the first."""
        return self._sequence

    def __len__(self) -> int:
        """Reachable blocks."""
        return len(self._parents) - len(self._hidden)

    def add(self, changes: Iterable[CacheChange]) -> None:
        """What the pool reported, in its order. To say again what is known is fine."""
        for name, parent in changes:
            if parent is None:
                self._evict(name)
            elif name not in self._parents:
                self._store(name, parent)

    def take(self) -> CacheEvents | None:
        """The batch of what changed since the last one, None if nothing did. To be told to every
        router whose session is open: the next one builds on it."""
        if not self._pending:
            return None
        self._sequence += 1
        batch = CacheEvents(
            sequence=self._sequence,
            stored=pack_names(short_name(name) for name, now in self._pending.items() if now),
            evicted=pack_names(short_name(name) for name, now in self._pending.items() if not now),
        )
        self._pending.clear()
        return batch

    def dump(self) -> Iterator[CacheDump]:
        """All that was reachable at the last batch, in parts. It is the state of the moment of the
        call, however slowly the parts are taken."""
        names = self._at_last_batch()
        self._dumps += 1
        return self._parts(names, self._dumps, self._sequence)

    # -- inside ------------------------------------------------------------------------------

    def _at_last_batch(self) -> list[bytes]:
        """Changes that no batch told yet are not in it: the next one says what changed since."""
        before = [name for name, now in self._pending.items() if not now]
        for name in self._parents:
            if name not in self._hidden and name not in self._pending:
                before.append(name)
        return before

    def _parts(self, names: list[bytes], dump: int, sequence: int) -> Iterator[CacheDump]:
        size = self._part_names
        count = max(1, -(-len(names) // size))
        for part in range(count):
            yield CacheDump(
                dump=dump,
                sequence=sequence,
                part=part,
                parts=count,
                names=pack_names(map(short_name, names[part * size : (part + 1) * size])),
            )

    def _store(self, name: bytes, parent: bytes) -> None:
        self._parents[name] = parent
        self._children.add(parent, name)
        if parent != FIRST and not self._is_reachable(parent):
            self._hidden.add(name)
        elif self._children.of(name):
            self._hidden.add(name)
            self._reveal(name)
        else:
            self._changed(name, True)

    def _evict(self, name: bytes) -> None:
        parent = self._parents.get(name)
        if parent is None:
            return
        if name in self._hidden:
            self._hidden.remove(name)
        elif self._children.of(name):
            self._hide(name)
            self._hidden.remove(name)
        else:
            self._changed(name, False)
        del self._parents[name]
        self._children.remove(parent, name)

    def _is_reachable(self, name: bytes) -> bool:
        return name in self._parents and name not in self._hidden

    def _reveal(self, name: bytes) -> None:
        """It and all behind it."""
        todo = [name]
        while todo:
            each = todo.pop()
            self._hidden.remove(each)
            self._changed(each, True)
            todo.extend(self._children.of(each))

    def _hide(self, name: bytes) -> None:
        todo = [name]
        while todo:
            each = todo.pop()
            self._hidden.add(each)
            self._changed(each, False)
            todo.extend(self._children.of(each))

    def _changed(self, name: bytes, now: bool) -> None:
        """What changes back before anybody was told did not change."""
        if self._pending.pop(name, now) is now:
            self._pending[name] = now


class _Children:
    """Nearly every block has one child or none, a few have thousands."""

    def __init__(self) -> None:
        self._by_parent: dict[bytes, bytes | set[bytes]] = {}

    def of(self, parent: bytes) -> Collection[bytes]:
        children = self._by_parent.get(parent, ())
        return (children,) if isinstance(children, bytes) else children

    def add(self, parent: bytes, child: bytes) -> None:
        if parent == FIRST:
            return  # never evicted, so nobody asks
        children = self._by_parent.setdefault(parent, child)
        if isinstance(children, set):
            children.add(child)
        elif children != child:
            self._by_parent[parent] = {children, child}

    def remove(self, parent: bytes, child: bytes) -> None:
        children = self._by_parent.get(parent)
        if isinstance(children, set):
            children.remove(child)
            if len(children) == 1:
                self._by_parent[parent] = children.pop()
        elif children is not None:
            del self._by_parent[parent]
