"""Who asks: the key of a request as actor, tenant and role, and what each role may do.

Refuses to keep secrets: what is remembered of a key is a digest of it.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from orchestrator.api.problems import forbidden
from orchestrator.ledger.keys import KeyRow, Role
from orchestrator.ledger.reading import Reader
from orchestrator.ledger.rows import JobRow
from orchestrator.spec import Cluster

_RANK = {Role.VIEWER: 0, Role.OPERATOR: 1, Role.ADMIN: 2}
REMEMBERED_S = 1.0
"""A key that another server revoked is refused after so long at the latest; one revoked here, at once."""
_MOST_REMEMBERED = 10_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """Who asks. `actor` is what the ledger and the audit log call him; `scope` keeps his idempotency keys apart.

    `tenant` None: whoever owns this machine's state folder; he is of every tenant.
    """

    actor: str
    role: Role
    tenant: str | None = None
    scope: str = ""

    def may(self, role: Role) -> bool:
        """Whether the caller's role is that role or above."""
        return _RANK[self.role] >= _RANK[role]

    def need(self, role: Role) -> None:
        """Raises: ApiError (403) when the caller's role is below."""
        if not self.may(role):
            raise forbidden(f"this needs the role {role}; the key's role is {self.role}")

    @property
    def only_tenant(self) -> str | None:
        """The one tenant whose jobs the caller may see; None = all."""
        return None if self.role is Role.ADMIN else self.tenant

    def need_tenant(self, tenant: str) -> None:
        """Raises: ApiError (403) when what belongs to that tenant is none of the caller's business."""
        if self.only_tenant is not None and tenant != self.only_tenant:
            raise forbidden(f"the key is of tenant {self.tenant!r}; what was asked for belongs to another tenant")

    def need_job(self, job: JobRow, role: Role = Role.VIEWER) -> None:
        """Raises: ApiError (403) unless the caller may do that with the job."""
        self.need_tenant(job.tenant)
        self.need(role)


def lesser(one: Role, other: Role) -> Role:
    """The role that may do less."""
    return min(one, other, key=_RANK.__getitem__)


def role_of(key: KeyRow, cluster: Cluster | None) -> Role:
    """A key's role, cut to the most that the Cluster lets keys of its tenant do."""
    for tenant in cluster.spec.tenants if cluster else ():
        if tenant.name == key.tenant:
            return lesser(key.role, Role(tenant.role))
    return key.role


@dataclass(slots=True)
class KeyRing:
    """Keys by digest, asked of the database again after `REMEMBERED_S`."""

    read: Reader
    clock: Callable[[], float]
    cluster: Callable[[], Cluster | None]
    _known: dict[bytes, tuple[float, Caller | None]] = field(default_factory=dict)
    _any: tuple[float, bool] | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def remembered(self, text: str) -> Caller | bool | None:
        """What was found lately: a caller, None for a key that opens nothing, False when `find` must be asked."""
        found = self._known.get(_digest(text))
        return found[1] if found is not None and 0 <= self.clock() - found[0] < REMEMBERED_S else False

    def find(self, text: str) -> Caller | None:
        """Who sends this key; None if it opens nothing. Reads the database."""
        now_s = self.clock()
        row = self.read.authenticate(text, now_s=now_s)
        caller = None if row is None else self._caller(row)
        with self._lock:
            if len(self._known) >= _MOST_REMEMBERED:
                self._known.clear()
            self._known[_digest(text)] = (now_s, caller)
        return caller

    def _caller(self, row: KeyRow) -> Caller:
        role = role_of(row, self.cluster())
        return Caller(actor=f"key:{row.id}", role=role, tenant=row.tenant, scope=row.id)

    def still(self, caller: Caller) -> bool:
        """Whether a caller would still be let in: his key was not revoked, and has not expired. Reads the database."""
        if caller.tenant is None:
            return True
        now_s = self.clock()
        return any(row.id == caller.scope and _holds(row, now_s) for row in self.read.api_keys())

    def any_issued(self) -> bool:
        """Whether there is a key that opens something: from then on nobody enters over TCP without one."""
        now_s = self.clock()
        if self._any is None or not 0 <= now_s - self._any[0] < REMEMBERED_S:
            self._any = (now_s, any(_holds(row, now_s) for row in self.read.api_keys()))
        return self._any[1]

    def forget(self) -> None:
        """Keys have changed."""
        with self._lock:
            self._known.clear()
            self._any = None


def _holds(row: KeyRow, now_s: float) -> bool:
    return row.revoked_ms is None and (row.expires_ms is None or row.expires_ms > now_s * 1000)


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "backslashreplace")).digest()
