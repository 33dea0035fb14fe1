"""What a machine proves, in three steps: parse, verify, appraise. Pure."""
