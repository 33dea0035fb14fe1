"""The parties' side: SDK, identities, trust in a manager, sealing and pushing, auditing."""
