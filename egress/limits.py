"""How much a run may take of this proxy (not of all replicas): tunnels at a time, connects a minute, bytes."""

from dataclasses import dataclass

FORGET = 24 * 3600.0  # seconds after which a run without tunnels is forgotten; runs don't last that long


class Rate:
    """A bucket for each key, from which a minute's worth can be taken at once; it refills steadily."""

    def __init__(self, per_minute: int) -> None:
        """`per_minute` 0 is no limit."""
        self.per_minute = per_minute
        self.buckets: dict[str, tuple[float, float]] = {}  # what was left, and when

    def take(self, key: str, now: float) -> bool:
        """Take one; False if there is none left. `now` is monotonic seconds."""
        if not self.per_minute:
            return True
        left, at = self.buckets.get(key, (self.per_minute, now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / 60)
        self.buckets[key] = (left - 1, now) if left >= 1 else (left, now)
        return left >= 1

    def prune(self, now: float) -> None:
        """Forget the buckets that are full by now."""
        self.buckets = {key: (left, at) for key, (left, at) in self.buckets.items() if now - at < 60}


@dataclass(slots=True)
class Account:
    """What a run holds and has used."""

    tunnels: int = 0
    bytes: int = 0
    at: float = 0.0


class Limits:
    """The accounts of all runs."""

    def __init__(self, tunnels: int, size: int) -> None:
        """`tunnels` at a time and `size` in bytes, of one run; 0 is no limit."""
        self.tunnels, self.size = tunnels, size
        self.accounts: dict[str, Account] = {}

    def refuses(self, run: str) -> str:
        """Return why the run gets no further tunnel, "" if it does."""
        account = self.accounts.get(run, Account())
        if self.tunnels and account.tunnels >= self.tunnels:
            return f"{self.tunnels} connections of this run are open, which is its limit"
        if self.over(account):
            return f"this run has moved {self.size} bytes, which is its limit"
        return ""

    def over(self, account: Account) -> bool:
        """Tell whether a run has moved more bytes than it may."""
        return 0 < self.size < account.bytes

    def enter(self, run: str, now: float) -> Account:
        """Count a tunnel, and return the run's account."""
        account = self.accounts.setdefault(run, Account())
        account.tunnels += 1
        account.at = now
        return account

    def leave(self, run: str, now: float) -> None:
        """Count the end of a tunnel."""
        self.accounts[run].tunnels -= 1
        self.accounts[run].at = now

    def prune(self, now: float) -> None:
        """Forget runs that are over."""
        old = [run for run, account in self.accounts.items() if not account.tunnels and now - account.at > FORGET]
        for run in old:
            del self.accounts[run]
