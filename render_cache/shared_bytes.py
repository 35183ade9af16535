"""A budget of bytes that several caches share: first come, first served."""

from __future__ import annotations

import threading
from weakref import WeakSet

UNLIMITED_BYTES = 1 << 62


class SharedBytes:
    """What caches may hold together, whoever of them. Safe to use from several threads.

    Args:
        most_bytes: So much.

    Attributes:
        was_short: Somebody wanted more since this was last set to False.
    """

    def __init__(self, most_bytes: int = UNLIMITED_BYTES) -> None:
        self._accounts: WeakSet[Account] = WeakSet()
        self._lock = threading.Lock()
        self._most = most_bytes
        self.was_short = False

    @property
    def most_bytes(self) -> int:
        """The budget."""
        return self._most

    def set_most(self, most_bytes: int) -> None:
        """Another budget, for who takes something from now on; nobody loses anything.

        Raises:
            ValueError: If it is negative.
        """
        if most_bytes < 0:
            raise ValueError(f"a budget must not be negative, got {most_bytes}")
        with self._lock:
            self._most = most_bytes

    @property
    def held_bytes(self) -> int:
        """What all of them hold."""
        with self._lock:
            return self._sum()

    def account(self) -> Account:
        """For a cache; what it holds is free again when nobody has the account any more."""
        account = Account(self)
        with self._lock:
            self._accounts.add(account)
        return account

    def _take(self, account: Account, size_bytes: int) -> bool:
        with self._lock:
            if self._sum() + size_bytes > self._most:
                self.was_short = True
                return False
            account.held_bytes += size_bytes
            return True

    def _give(self, account: Account, size_bytes: int) -> None:
        with self._lock:
            account.held_bytes -= size_bytes

    def _sum(self) -> int:
        return sum(account.held_bytes for account in self._accounts)


class Account:
    """What one cache holds of a shared budget.

    Attributes:
        held_bytes: So much.
    """

    def __init__(self, shared: SharedBytes) -> None:
        self._shared = shared
        self.held_bytes = 0

    def take(self, size_bytes: int) -> bool:
        """More, unless there is too little for it."""
        return self._shared._take(self, size_bytes)

    def give(self, size_bytes: int) -> None:
        """Less."""
        self._shared._give(self, size_bytes)
