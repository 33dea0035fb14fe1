"""The trusted service: HTTP application, store, key custody, enrolment, leases."""
