"""What happened: an append-only Merkle log of salted commitments, checkpoints, proofs, receipts. Pure.

Formats: docs/spec/ledger.md. Hashing is RFC 6962's; tiles, notes, checkpoints and cosignatures are C2SP's.
"""
