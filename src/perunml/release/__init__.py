"""THE decision: `decide(...) -> Release | Refusal`. Pure."""
