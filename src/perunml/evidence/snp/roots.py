"""AMD's root keys (ARK), by product line, as AMD's key distribution service publishes them."""

from __future__ import annotations

ARKS = {
    "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd": "Milan",
    "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1": "Genoa",
    "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a": "Turin",
}
"""SHA-256 of the certificate's DER -> product line. Bergamo and Siena are Genoa's line."""
