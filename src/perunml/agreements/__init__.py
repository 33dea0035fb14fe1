"""What may happen: documents, schema, boards, approvals, review. Pure."""
