"""`Client`: sealed assets, and documents that agreements name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from perunml.client.party import Party, PathLike

if TYPE_CHECKING:
    from perunml.api.assets import AssetView, DocumentView
    from perunml.client.assets import Progress, SealedAsset
    from perunml.wire.dsse import Envelope


class Assets(Party):
    """Seal, push, look at."""

    def seal(
        self, source: PathLike, *, name: str, kind: str, fresh_key: bool = False, record_size: int = 0, record_header: int = 0,
        chunk_size: int = 1 << 20, progress: Progress | None = None,
    ) -> SealedAsset:  # fmt: skip
        """Seal a folder or file into the home folder; nothing is sent. Files that did not change since the version before are not sealed anew, unless a `fresh_key` is
        asked for; what an interrupted call sealed is kept too. Large ``.npy``, ``.tar`` (WebDataset) and
        ``.parquet`` files are cut at their records' borders, others where records of `record_size` bytes follow `record_header` bytes. A
        chunk, which is opened as a whole, has at most `chunk_size` bytes, 64 KiB to 4 MiB. Raises `UsageError` (not_found, path_refused, sealing_busy), `LimitReached` (disk_full)."""
        from perunml.client import assets
        from perunml.sealing.borders import Records

        records = Records(record_size, record_header) if record_size else None
        return assets.seal(
            self.home, self.identity, Path(source), name=name, kind=kind, fresh_key=fresh_key, chunk_size=chunk_size, records=records,
            progress=progress,
        )  # fmt: skip

    def push(
        self, name: str, *, version: int | None = None, store: str = "", replace: bool = False, progress: Progress | None = None
    ) -> AssetView:  # fmt: skip
        """Send a sealed asset; goes on where an interrupted push stopped. Its blobs go to the manager, or into the bucket that the manager names `store`; with
        `replace` those in the bucket are written anew."""
        from perunml.client import assets

        self.home.asset(name, version)  # what is missing here is said before anybody is asked
        return assets.push(
            self.connection, self.home, self.identity, name, version=version, store=store, replace=replace, progress=progress
        )  # fmt: skip

    def recover(self, names: Iterable[str] = (), *, progress: Progress | None = None) -> list[AssetView]:
        """Seal the data keys of sealed assets (of these names, or all in the home folder; every version) to the pinned manager, and send what
        it lacks of them: for a manager that was restored, that replaced its intake key, or that takes another's place. Raises `UsageError`
        (not_found), what `push` raises."""
        from perunml.client import assets

        return assets.recover(self.connection, self.home, self.identity, tuple(names), progress=progress)

    def assets(self) -> list[tuple[str, int, str]]:
        """(name, version, digest) of everything sealed in the home folder. Asks nobody."""
        from perunml.client import assets

        return assets.local_assets(self.home)

    def asset(self, name: str) -> AssetView:
        """An asset as the manager holds it; by digest, or by its name in the home folder."""
        from perunml.client import assets

        return assets.show(self.connection, self.asset_digest(name))

    def asset_digest(self, name: str) -> str:
        """The digest of an asset given by digest, or by its name in the home folder."""
        from perunml.client import assets

        if name.startswith("sha256:"):
            return name
        return assets.load_sealed(self.home, self.identity, name)[0].asset

    def push_document(self, kind: str, body: Mapping[str, Any]) -> DocumentView:
        """Sign and send a document that agreements name by digest (a Baseline)."""
        from perunml.client import assets

        return assets.push_document(self.connection, self.identity, kind, dict(body))

    def sign_document(self, file: PathLike) -> Envelope:
        """A ManagerProfile in a signed envelope, ready to be published: of a document, or one more signature on an envelope
        (docs/measurements.md). Sends nothing. Raises `UsageError` (malformed, local_file), `IntegrityError`."""
        from perunml.client.evidence import read_evidence
        from perunml.client.profile import sign_profile

        return sign_profile(read_evidence(Path(file)), self.identity.signing)

    @staticmethod
    def document_digest(kind: str, body: Mapping[str, Any]) -> str:
        """The digest by which an agreement names a document; `client.documents.read_document` reads one from a file.
        Sends nothing."""
        from perunml.wire.dsse import unsigned

        return unsigned(kind, dict(body)).digest
