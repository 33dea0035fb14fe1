"""The store's ground: schema, custody, certificates, rates."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import create_engine

from manager.world import code_of
from perunml.manager import leases, release, runs, state
from perunml.manager.certificates import Issuer, read_client
from perunml.manager.keys import Keys
from perunml.manager.limits import MAX_CALLERS, Limits, Rate
from perunml.manager.pending import MAX_PER_OPERATOR, Enrolment, Enrolments
from perunml.manager.store.database import Database
from perunml.manager.store.tables import metadata
from perunml.wire.identity import SigningKey


def test_migrations_make_the_tables(tmp_path: Path) -> None:
    """What the migrations make is what the tables say."""
    Database.create(tmp_path / "manager.sqlite").close()
    engine = create_engine(f"sqlite:///{tmp_path / 'manager.sqlite'}")
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []
    engine.dispose()


def test_waiting_runs_and_leases_are_found_by_an_index(tmp_path: Path) -> None:
    """Whatever grows for ever is never read from end to end on the way of a host."""
    database = Database.create(tmp_path / "manager.sqlite")
    statements = (runs._QUEUED, runs._COUNT, release._AGAIN, state._RUN, leases._LEASE, leases._DUE)
    with database.read() as connection:
        for sql in statements:
            values = dict.fromkeys(re.findall(r":([a-z]+)", sql), "")
            plan = [row.detail for row in connection.run("EXPLAIN QUERY PLAN " + sql, values)]
            assert plan
            assert all("USING INDEX" in step or "USING COVERING INDEX" in step for step in plan), (sql, plan)
    database.close()


def test_the_writing_connection_syncs_every_commit(tmp_path: Path) -> None:
    """WAL, and synchronous=FULL (2): what was acknowledged outlives the machine's power."""
    database = Database.create(tmp_path / "manager.sqlite")
    with database.write() as connection:
        assert connection.run("PRAGMA journal_mode").scalar() == "wal"
        assert connection.run("PRAGMA synchronous").scalar() == 2
    database.close()


def test_kept_key_opens_as_what_it_is_kept_for() -> None:
    """S8: custody binds a key to its asset and owner; a cut, changed or foreign one does not open."""
    keys, what = Keys(bytes(32)), {"asset": "a", "owner": "o"}
    kept = keys.keep(b"k" * 32, what)
    assert keys.take(kept, what) == b"k" * 32
    assert b"k" * 16 not in kept
    for bad, said in ((kept, {**what, "asset": "b"}), (kept[:-1], what), (b"", what), (bytes(60), what)):
        assert code_of(lambda bad=bad, said=said: keys.take(bad, said)) == "custody_broken"
    assert code_of(lambda: Keys(b"\x01" * 32).take(kept, what)) == "custody_broken"


def test_keys_are_unlike_and_show_nothing() -> None:
    """Each derived key is another, the same root gives the same, and none is shown or pickled."""
    import pickle

    keys = Keys(bytes(32))
    assert keys.output_key("r", "a") != keys.output_key("r", "b") != keys.output_key("s", "b")
    assert Keys(bytes(32)).identity.public == keys.identity.public
    assert keys.tls_key().private_numbers() == Keys(bytes(32)).tls_key().private_numbers()
    assert keys.identity.secret().hex() not in repr(keys)
    with pytest.raises(TypeError):
        pickle.dumps(keys)


def test_client_certificates_say_one_thing() -> None:
    """A certificate names a machine or a lease, never both, and no other certificate is read as one."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    from perunml.manager.certificates import ca_certificate

    issuer, key, now = Issuer(Keys(bytes(32)).host_ca()), SigningKey.generate().public.text, int(time.time())

    def der(pem: str) -> bytes:
        return x509.load_pem_x509_certificate(pem.encode()).public_bytes(Encoding.DER)

    machine = read_client(der(issuer.machine("ek:sha256:" + "0" * 64, key, now, 60)))
    assert (machine.machine, machine.lease, machine.key) == ("ek:sha256:" + "0" * 64, "", key)
    assert machine.not_before < now < machine.not_after == now + 60
    lease = read_client(der(issuer.lease("ab" * 16, key, now, 60)))
    assert (lease.machine, lease.lease) == ("", "ab" * 16)
    with pytest.raises(ValueError, match="not a host's"):
        read_client(der(ca_certificate(Keys(bytes(32)).host_ca(), now).decode()))
    assert code_of(lambda: issuer.lease("x", "p384:AAAA", now, 60)) == "malformed"


def test_rates_are_kept_in_bounded_memory() -> None:
    """A caller beyond its rate waits, others do not, and no number of callers fills the memory."""
    now = [0.0]
    limits = Limits(lambda: now[0])
    for _ in range(3):
        limits.take("x", "a", Rate(1, 3))
    assert code_of(lambda: limits.take("x", "a", Rate(1, 3))) == "rate_limited"
    limits.take("x", "b", Rate(1, 3))
    now[0] += 1
    limits.take("x", "a", Rate(1, 3))
    for number in range(MAX_CALLERS + 100):
        limits.take("x", str(number), Rate(1, 3))
    assert len(limits._buckets) == MAX_CALLERS


def test_begun_enrolments_are_bounded() -> None:
    """D7: an operator has so many enrolments open, and old ones make room."""
    now = [0.0]
    begun = Enrolments(lambda: now[0])

    def begin(operator: str) -> str:
        return begun.begin(Enrolment(operator, "n", "k", "m", True, b"", b"", "", b"s", b"", 0, until=now[0] + 10))

    names = [begin("a") for _ in range(MAX_PER_OPERATOR)]
    assert code_of(lambda: begin("a")) == "rate_limited"
    assert begin("b")
    now[0] += 11
    assert code_of(lambda: begun.take(names[0], "a")) == "enrolment_failed"
    assert begin("a")
    assert len(begun) == 1
