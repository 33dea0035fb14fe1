"""Request and response types that manager, host and client share. Types only."""
