"""Judges evidence that lies in files, for auditors: no manager, no exchange, PCR values only as the logs give them."""
